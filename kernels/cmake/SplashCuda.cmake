# Decides whether CUDA instances are built, and how. Sets SPLASH_WITH_CUDA and SPLASH_WITH_ARCHS (the architecture names
# of the instance table), and offers splash_add_cuda_objects.

find_program(SPLASH_NVCC nvcc HINTS $ENV{CUDACXX} ENV CUDA_PATH /usr/local/cuda PATH_SUFFIXES bin)
find_program(SPLASH_NVIDIA_SMI nvidia-smi)

function(splash_gpu_visible out)
  set(${out} FALSE PARENT_SCOPE)
  if(SPLASH_NVIDIA_SMI)
    execute_process(COMMAND ${SPLASH_NVIDIA_SMI} -L OUTPUT_VARIABLE gpus ERROR_QUIET TIMEOUT 20)
    if(gpus MATCHES "GPU 0")
      set(${out} TRUE PARENT_SCOPE)
    endif()
  endif()
endfunction()

if(SPLASH_CUDA STREQUAL "AUTO")
  splash_gpu_visible(gpu_visible)
  if(NOT SPLASH_NVCC)
    set(SPLASH_WITH_CUDA OFF)
    set(reason "no nvcc found")
  elseif(SPLASH_CUDA_ARCHS)
    set(SPLASH_WITH_CUDA ON)
    set(reason "nvcc found, SPLASH_CUDA_ARCHS is set")
  elseif(gpu_visible)
    set(SPLASH_WITH_CUDA ON)
    set(reason "nvcc and a GPU found")
  else()
    set(SPLASH_WITH_CUDA OFF)
    set(reason "nvcc found, but no GPU is visible and SPLASH_CUDA_ARCHS is empty")
  endif()
  message(STATUS "splash: CUDA instances ${SPLASH_WITH_CUDA} (SPLASH_CUDA=AUTO: ${reason})")
else()
  set(SPLASH_WITH_CUDA ${SPLASH_CUDA})
  message(STATUS "splash: CUDA instances ${SPLASH_WITH_CUDA} (asked for)")
endif()

set(SPLASH_WITH_ARCHS "")
if(SPLASH_WITH_CUDA)
  set(archs ${SPLASH_CUDA_ARCHS})
  if(NOT archs)
    set(archs 90a)
  endif()
  foreach(arch IN LISTS archs)
    if(NOT arch STREQUAL "90a")
      message(FATAL_ERROR "SPLASH_CUDA_ARCHS has '${arch}'; there are kernels for 90a")
    endif()
  endforeach()
  set(SPLASH_WITH_ARCHS sm90)

  # Not cached: an isolated build leaves a build tree behind, but not the environment that held the headers.
  set(cutlass "${SPLASH_CUTLASS_DIR}")
  if(NOT cutlass)
    execute_process(
      COMMAND ${Python_EXECUTABLE} -c
              "import importlib.util as u, os; print(os.path.join(os.path.dirname(u.find_spec('cutlass_library').origin), 'source', 'include'))"
      OUTPUT_VARIABLE cutlass OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
  if(NOT EXISTS "${cutlass}/cute/tensor.hpp")
    message(FATAL_ERROR "CUTLASS headers not found ('${cutlass}'): pip install --no-deps nvidia-cutlass==4.2.0.0, "
                        "or set SPLASH_CUTLASS_DIR")
  endif()
  set(SPLASH_CUTLASS_INCLUDE "${cutlass}")

  if(NOT CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_COMPILER ${SPLASH_NVCC})
  endif()
  set(CMAKE_CUDA_ARCHITECTURES OFF)
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)
  set(CMAKE_CUDA_STANDARD 20)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
  set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
endif()

# An object library of kernels. Its compiler runs under check_ptxas.py, which fails where ptxas reports serialised wgmma,
# spills or stack frames.
function(splash_add_cuda_objects target)
  cmake_parse_arguments(ARG "" "" "SOURCES" ${ARGN})
  add_library(${target} OBJECT ${ARG_SOURCES})
  target_link_libraries(${target} PRIVATE splash_headers)
  target_include_directories(${target} SYSTEM PRIVATE ${SPLASH_CUTLASS_INCLUDE} ${CUDAToolkit_INCLUDE_DIRS})
  target_compile_definitions(${target} PRIVATE NDEBUG)
  target_compile_options(${target} PRIVATE -O3 --expt-relaxed-constexpr -gencode arch=compute_90a,code=sm_90a -Xptxas -v
                                           -Xcompiler=-Wno-psabi)
  set_target_properties(${target} PROPERTIES CUDA_COMPILER_LAUNCHER
                        "${Python_EXECUTABLE};${PROJECT_SOURCE_DIR}/kernels/cmake/check_ptxas.py;${SPLASH_CCACHE_PROGRAM}")
endfunction()
