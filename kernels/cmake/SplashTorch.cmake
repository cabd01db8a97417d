# Torch's include folders and libtorch_cpu, without importing Torch and without TorchConfig.cmake, which asks for CUDA
# wherever Torch was built with it.

execute_process(COMMAND ${Python_EXECUTABLE} -c
                        "import importlib.util as u, os; print(os.path.dirname(u.find_spec('torch').origin))"
                OUTPUT_VARIABLE SPLASH_TORCH_DIR OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
find_library(SPLASH_TORCH_CPU torch_cpu PATHS ${SPLASH_TORCH_DIR}/lib NO_DEFAULT_PATH NO_CACHE)
if(NOT SPLASH_TORCH_CPU)
  message(FATAL_ERROR "Torch not found by ${Python_EXECUTABLE}: install torch>=2.10, or configure with -DSPLASH_TORCH=OFF")
endif()
file(STRINGS ${SPLASH_TORCH_DIR}/version.py SPLASH_TORCH_VERSION REGEX "^__version__")
string(REGEX REPLACE ".*'(.*)'.*" "\\1" SPLASH_TORCH_VERSION "${SPLASH_TORCH_VERSION}")
message(STATUS "splash: Torch ${SPLASH_TORCH_VERSION} in ${SPLASH_TORCH_DIR}")

add_library(splash_torch_headers INTERFACE)
target_include_directories(splash_torch_headers SYSTEM INTERFACE ${SPLASH_TORCH_DIR}/include)
