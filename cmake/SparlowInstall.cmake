# What a program that embeds sparlow needs: headers, libraries, sparlowConfig.cmake, sparlow.pc. The component `python`
# lays the same tree out inside the Python package, where files cannot be links.
include(CMakePackageConfigHelpers)
set(_package "${PROJECT_BINARY_DIR}/package")
set(_package_folder lib/cmake/sparlow)

configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/sparlowConfig.cmake.in" "${_package}/sparlowConfig.cmake"
                              INSTALL_DESTINATION ${_package_folder})
write_basic_package_version_file("${_package}/sparlowConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
configure_file("${PROJECT_SOURCE_DIR}/cmake/sparlow.pc.in" "${_package}/sparlow.pc" @ONLY)

foreach(component embed python)
  # A name link is for linkers that look for -lsparlow.
  if(component STREQUAL embed)
    install(TARGETS sparlow EXPORT sparlow_embed LIBRARY DESTINATION lib COMPONENT embed NAMELINK_COMPONENT embed)
  else()
    install(TARGETS sparlow EXPORT sparlow_python LIBRARY DESTINATION lib COMPONENT python NAMELINK_SKIP)
  endif()
  install(EXPORT sparlow_${component} FILE sparlowTargets.cmake NAMESPACE sparlow:: DESTINATION ${_package_folder}
          COMPONENT ${component})
  install(DIRECTORY "${PROJECT_SOURCE_DIR}/cpp/include/sparlow" DESTINATION include COMPONENT ${component})
  install(FILES "${_package}/sparlowConfig.cmake" "${_package}/sparlowConfigVersion.cmake"
          DESTINATION ${_package_folder} COMPONENT ${component})
  if(SPARLOW_BLAS_LIBRARY)
    install(FILES "${SPARLOW_BLAS_LIBRARY}" DESTINATION lib COMPONENT ${component})
  endif()
  if(TARGET sparlow_cuda)
    install(TARGETS sparlow_cuda LIBRARY DESTINATION lib COMPONENT ${component} NAMELINK_SKIP)
  endif()
endforeach()
install(FILES "${_package}/sparlow.pc" DESTINATION lib/pkgconfig COMPONENT embed)
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION share/licenses/sparlow COMPONENT embed)
