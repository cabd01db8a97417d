"""`python -m splash_attention bench`: times of splash and its peers, each answer checked first.

families: what can be asked for. problems: sizes, and the problems that have names. case: the tensors of a problem.
check: the reference's answer. peers/: splash and others behind one interface. measure, memory: figures of one call.
run: the rows of a problem. tables, sweeps, limits, rows: whole tables. report: CSV, table, plot. commands: the options.
"""
