# Where things go: the root of the install tree is the Python package, in a wheel as in any other prefix.

include(CMakePackageConfigHelpers)

set(SPLASH_INSTALL_LIB lib)
set(SPLASH_INSTALL_INCLUDE include)
set(SPLASH_INSTALL_CMAKE lib/cmake/splash)

# The commit of the sources: asked again whenever the repository's log grows, "unknown" outside a repository.
find_package(Git QUIET)
set(SPLASH_COMMIT unknown)
if(Git_FOUND AND EXISTS ${PROJECT_SOURCE_DIR}/.git)
  execute_process(COMMAND ${GIT_EXECUTABLE} rev-parse --short=12 HEAD WORKING_DIRECTORY ${PROJECT_SOURCE_DIR}
                  OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
  if(NOT failed)
    set(SPLASH_COMMIT ${commit})
  endif()
  if(EXISTS ${PROJECT_SOURCE_DIR}/.git/logs/HEAD)
    set_property(DIRECTORY ${PROJECT_SOURCE_DIR} APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS
                 ${PROJECT_SOURCE_DIR}/.git/logs/HEAD)
  endif()
endif()

set(SPLASH_BUILD_DEFINITIONS
    SPLASH_COMMIT="${SPLASH_COMMIT}"
    SPLASH_TORCH_VERSION="${SPLASH_TORCH_VERSION}"
    SPLASH_VERSION="${SPLASH_VERSION}"
    "SPLASH_COMPILER=\"${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}\""
    SPLASH_BUILD_TYPE="${CMAKE_BUILD_TYPE}"
    SPLASH_CUDA_VERSION="${CUDAToolkit_VERSION}")

function(splash_install)
  install(DIRECTORY include/splash DESTINATION ${SPLASH_INSTALL_INCLUDE} FILES_MATCHING PATTERN "*.hpp")
  install(FILES kernels/registry.hpp kernels/dispatch.hpp kernels/longnet.hpp kernels/entmax_rows.hpp
          DESTINATION ${SPLASH_INSTALL_INCLUDE}/splash/kernels)
  install(TARGETS splash_headers splash_kernels EXPORT splash_targets LIBRARY DESTINATION ${SPLASH_INSTALL_LIB})
  install(EXPORT splash_targets FILE splash-targets.cmake NAMESPACE splash:: DESTINATION ${SPLASH_INSTALL_CMAKE})
  configure_package_config_file(kernels/cmake/splash-config.cmake.in ${PROJECT_BINARY_DIR}/splash-config.cmake
                                INSTALL_DESTINATION ${SPLASH_INSTALL_CMAKE})
  write_basic_package_version_file(${PROJECT_BINARY_DIR}/splash-config-version.cmake COMPATIBILITY SameMinorVersion)
  install(FILES ${PROJECT_BINARY_DIR}/splash-config.cmake ${PROJECT_BINARY_DIR}/splash-config-version.cmake
          DESTINATION ${SPLASH_INSTALL_CMAKE})
endfunction()
