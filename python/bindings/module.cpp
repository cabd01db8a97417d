// splash_attention._C: what is compiled into libsplash, for Python.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>

#include "kernels/registry.hpp"

namespace py = pybind11;
using namespace splash::kernels;

namespace {

/// The enumerator whose name_of() is `text`.
template <class Enum>
Enum parse(const char* what, const std::string& text, int count) {
  std::string allowed;
  for (int n = 0; n < count; ++n) {
    if (text == name_of(Enum(n))) return Enum(n);
    allowed += std::string(n ? ", " : "") + name_of(Enum(n));
  }
  throw std::invalid_argument(std::string(what) + " is " + text + "; allowed are " + allowed);
}

Key make_key(const std::string& pass, const std::string& arch, const std::string& pattern,
             const std::string& normalizer, const std::string& dtype, int head_dim, const std::string& span) {
  Arch parsed_arch;
  if (!parse_arch(arch, parsed_arch))
    throw std::invalid_argument("arch is " + arch + "; allowed are cpu, cuda, sm<number>");
  return {parse<Pass>("pass", pass, 2),
          parsed_arch,
          pattern,
          normalizer,
          parse<splash::DType>("dtype", dtype, 7),
          head_dim,
          parse<Spans>("span", span, std::size(splash::tuning::kSpanNames))};
}

py::dict to_dict(const Key& key) {
  py::dict row;
  row["op"] = name_of(key.op);
  row["pass"] = name_of(key.pass);
  row["arch"] = name_of(key.arch);
  row["dtype"] = name_of(key.dtype);
  if (key.op != Op::attention) return row;
  row["pattern"] = key.pattern;
  row["normalizer"] = key.normalizer;
  row["head_dim"] = key.head_dim;
  row["span"] = name_of(key.span);
  return row;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "The instances compiled into libsplash.";
  m.def(
      "build_info", [] { return py::module_::import("json").attr("loads")(splash_build_info()); },
      "Version, compiler, CUDA and instruction set, as a dict.");
  m.def(
      "instances",
      [] {
        py::list rows;
        for (const Instance& instance : instances()) rows.append(to_dict(instance.key));
        return rows;
      },
      "Every compiled row, as dicts with the keys of kernels/instances.json, and its op; head_dim 0 and span any "
      "serve every one.");
  m.def(
      "find",
      [](const std::string& pass, const std::string& arch, const std::string& pattern, const std::string& normalizer,
         const std::string& dtype, int head_dim, const std::string& span) -> py::object {
        const Instance* found = find(make_key(pass, arch, pattern, normalizer, dtype, head_dim, span));
        if (!found) return py::none();
        return to_dict(found->key);
      },
      py::arg("pass_"), py::arg("arch"), py::arg("pattern"), py::arg("normalizer"), py::arg("dtype"),
      py::arg("head_dim"), py::arg("span") = "any",
      "The row that serves a key, or None. ValueError for an unknown name.");
  m.def(
      "explain",
      [](const std::string& pass, const std::string& arch, const std::string& pattern, const std::string& normalizer,
         const std::string& dtype, int head_dim,
         const std::string& span) { return explain(make_key(pass, arch, pattern, normalizer, dtype, head_dim, span)); },
      py::arg("pass_"), py::arg("arch"), py::arg("pattern"), py::arg("normalizer"), py::arg("dtype"),
      py::arg("head_dim"), py::arg("span") = "any",
      "Why a key has no row: the nearest one and the fields that differ. Empty where there is one.");
}
