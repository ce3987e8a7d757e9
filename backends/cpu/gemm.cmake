# gemm.cmake: sources of the CPU backend's team and matrix product, with the flags of each level.
# Sets IV_CPU_GEMM_SOURCES; include it in the CMakeLists.txt that defines the target (file
# properties are seen in that directory only).  Include path: the repository root.  Links: threads,
# m.
set(dir ${CMAKE_CURRENT_LIST_DIR})
set(IV_CPU_GEMM_SOURCES ${dir}/team.c ${dir}/isa.c ${dir}/gemm.c)
set(flags -O3 -std=gnu11 -ffp-contract=off -fno-math-errno -fno-trapping-math)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
  foreach(level v2 v3 v4)
    set(file ${dir}/gemm_${level}.c)
    set(level_flags ${flags} -march=x86-64-${level})
    if(level STREQUAL "v4")
      list(APPEND level_flags -mprefer-vector-width=512)
    endif()
    set_source_files_properties(${file} PROPERTIES COMPILE_OPTIONS "${level_flags}")
    list(APPEND IV_CPU_GEMM_SOURCES ${file})
  endforeach()
else()
  set_source_files_properties(${dir}/gemm_base.c PROPERTIES COMPILE_OPTIONS "${flags}")
  list(APPEND IV_CPU_GEMM_SOURCES ${dir}/gemm_base.c)
endif()
