# Torch's include folders and libtorch_cpu, without importing Torch and without TorchConfig.cmake, which asks for CUDA
# wherever Torch was built with it. Its stable ABI has what is needed from 2.10 on.

set(SPLASH_TORCH_DIR "" CACHE PATH "Torch's folder in its site-packages; empty means the Torch of the Python that was found")
set(torch_dir ${SPLASH_TORCH_DIR})
if(NOT torch_dir)
  execute_process(COMMAND ${Python_EXECUTABLE} -c
                          "import importlib.util as u, os; print(os.path.dirname(u.find_spec('torch').origin))"
                  OUTPUT_VARIABLE torch_dir OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
find_library(torch_cpu torch_cpu PATHS ${torch_dir}/lib NO_DEFAULT_PATH NO_CACHE)
if(NOT torch_cpu)
  if(SPLASH_TORCH_DIR)
    set(searched ${SPLASH_TORCH_DIR})
  else()
    set(searched ${Python_EXECUTABLE})
    unset(_Python_EXECUTABLE CACHE) # so that the next try looks for Python again
  endif()
  message(FATAL_ERROR "Torch not found (searched ${searched}). Name the Python that has it, 2.10 or later, by "
                      "-DPython_EXECUTABLE=.venv/bin/python, or its folder by -DSPLASH_TORCH_DIR=.../site-packages/torch, "
                      "or build without operators by -DSPLASH_TORCH=OFF.")
endif()
file(STRINGS ${torch_dir}/version.py SPLASH_TORCH_VERSION REGEX "^__version__")
string(REGEX REPLACE ".*'(.*)'.*" "\\1" SPLASH_TORCH_VERSION "${SPLASH_TORCH_VERSION}")
if(SPLASH_TORCH_VERSION VERSION_LESS 2.10)
  message(FATAL_ERROR "Torch ${SPLASH_TORCH_VERSION} in ${torch_dir} is too old; 2.10 or later has the stable ABI that is needed")
endif()
message(STATUS "splash: Torch ${SPLASH_TORCH_VERSION} in ${torch_dir}")

add_library(splash_torch_headers INTERFACE)
target_include_directories(splash_torch_headers SYSTEM INTERFACE ${torch_dir}/include)
set(SPLASH_TORCH_CPU ${torch_cpu})
