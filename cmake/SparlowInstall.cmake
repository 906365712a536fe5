# What a program that embeds sparlow needs: headers, libraries, sparlowConfig.cmake, sparlow.pc. The component `python`
# lays the same tree out inside the Python package, where files cannot be links.
include(CMakePackageConfigHelpers)
set(_package "${PROJECT_BINARY_DIR}/package")
set(_package_folder lib/cmake/sparlow)

configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/sparlowConfig.cmake.in" "${_package}/sparlowConfig.cmake"
                              INSTALL_DESTINATION ${_package_folder})
write_basic_package_version_file("${_package}/sparlowConfigVersion.cmake" COMPATIBILITY SameMinorVersion)

set(SPARLOW_COMPONENTS embed)
if(SPARLOW_PYTHON)
  list(APPEND SPARLOW_COMPONENTS python)
endif()
foreach(component IN LISTS SPARLOW_COMPONENTS)
  # A name link is for linkers that look for -lsparlow; a Python package cannot hold links.
  if(component STREQUAL embed)
    set(SPARLOW_LINK_NAME sparlow)
    install(TARGETS sparlow EXPORT sparlow_embed LIBRARY DESTINATION lib COMPONENT embed NAMELINK_COMPONENT embed)
  else()
    set(SPARLOW_LINK_NAME :libsparlow.so.0)
    install(TARGETS sparlow EXPORT sparlow_python LIBRARY DESTINATION lib COMPONENT python NAMELINK_SKIP)
  endif()
  install(EXPORT sparlow_${component} FILE sparlowTargets.cmake NAMESPACE sparlow:: DESTINATION ${_package_folder}
          COMPONENT ${component})
  install(DIRECTORY "${PROJECT_SOURCE_DIR}/cpp/include/sparlow" DESTINATION include COMPONENT ${component})
  configure_file("${PROJECT_SOURCE_DIR}/cmake/sparlow.pc.in" "${_package}/${component}/sparlow.pc" @ONLY)
  install(FILES "${_package}/${component}/sparlow.pc" DESTINATION lib/pkgconfig COMPONENT ${component})
  install(FILES "${_package}/sparlowConfig.cmake" "${_package}/sparlowConfigVersion.cmake"
          DESTINATION ${_package_folder} COMPONENT ${component})
  if(SPARLOW_BLAS_LIBRARY)
    install(FILES "${SPARLOW_BLAS_LIBRARY}" DESTINATION lib COMPONENT ${component})
  endif()
  if(TARGET sparlow_cuda)
    install(TARGETS sparlow_cuda LIBRARY DESTINATION lib COMPONENT ${component} NAMELINK_SKIP)
  endif()
endforeach()
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION share/licenses/sparlow COMPONENT embed)
