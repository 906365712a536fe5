# Shared by the scripts beside this file; sourced from the repository's root.

say() { printf '[sparlow] %s\n' "$*" >&2; }
die() { printf '[sparlow] error: %s\n' "$*" >&2; exit 1; }

# The folder of the Python environment, absolute.
environment() { realpath -m "${SPARLOW_VENV:-${VIRTUAL_ENV:-.venv}}"; }

python_fits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.12 python3.11}; do
    if python_fits "$candidate"; then echo "$candidate"; return; fi
  done
  die "no Python 3.11 or 3.12 found (looked for: ${PYTHON:-python3 python3.12 python3.11}); set PYTHON to one"
}

make_environment() {
  local python
  [ -x "$1/bin/python" ] && return
  python=$(find_python)
  say "making a Python environment in $1 with $("$python" --version)"
  "$python" -m venv "$1" || die "$python -m venv failed; on Debian and Ubuntu install python3-venv"
}

check_python() {
  python_fits "$1" || die "$1 is $("$1" --version 2>&1); sparlow needs Python 3.11 or 3.12"
}

# What the installed package is made of.
package_sources=(CMakeLists.txt VERSION pyproject.toml bench/cpp cmake cpp cuda python)

# Changes when any file of the package changes.
sources_hash() {
  local present=() source
  for source in "${package_sources[@]}"; do [ ! -e "$source" ] || present+=("$source"); done
  find "${present[@]}" -type f ! -name '*.pyc' ! -name '*.so' ! -name '*.so.*' -print0 |
    LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -d ' ' -f 1
}
