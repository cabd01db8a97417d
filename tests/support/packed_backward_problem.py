"""A backward pass of packed sequences whose unread inputs are NaN, against the float64 reference."""

import torch
from backward_problem import (
    assert_same_bits,
    assert_zeros,
    compare,
    gradients,
    poisoned_problem,
    reference_gradients,
    statistic_gradient,
)
from layouts import LAYOUTS
from packed_problem import kept_by, through_the_operator, varlen


def check_packed_backward(problem, device, record_error, public):
    """As check_backward(). public: by attention_varlen(), which on the CPU checks max_seqlen; else by the operator."""
    case, layout, ends = problem.case, LAYOUTS[problem.case.layout], problem.ends(device)
    numbers, parameters = case.numbers(device), case.parameters(device)
    pattern = case.full_pattern(device)
    kept = kept_by(problem, pattern, device)
    rows = torch.zeros_like(kept[..., 0])
    for of_sequence, _ in problem.parts():
        rows[:, :, of_sequence] = True
    dirty = poisoned_problem(case, numbers, kept, rows)
    clean, dirty = ([layout(t) for t in tensors] for tensors in (numbers, dirty))
    grad_statistic = statistic_gradient(case, device)

    def run(tensors, deterministic):
        def splash(q, k, v, *parameters):
            normalizer = case.normalizer_of(parameters)
            if public:
                return varlen(problem, q, k, v, pattern, normalizer, ends, deterministic)
            return through_the_operator(problem, q, k, v, pattern, normalizer, ends, deterministic)()

        return gradients(splash, tensors, grad_statistic, parameters)

    exact, same = reference_gradients(case, clean, kept, grad_statistic, parameters)
    got = run(dirty, False)
    compare(got, exact, same, record_error, device, problem.features, prefix="packed ")
    assert_zeros(case, got, kept)
    fixed = run(dirty, True)
    if device == "cuda":
        compare(fixed, exact, same, record_error, device, problem.features, prefix="packed fixed ")
    assert_zeros(case, fixed, kept)
    assert_same_bits(run(clean, True), fixed, "without NaN where nothing reads")
