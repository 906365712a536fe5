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

# Headers of the server example and Debian's packages that have them.
server_packages=(libboost-dev nlohmann-json3-dev libonig-dev libutf8proc-dev)
server_headers=(boost/beast/version.hpp nlohmann/json.hpp oniguruma.h utf8proc.h)

have_headers() { printf '#include <%s>\n' "$@" | "${CXX:-c++}" -fsyntax-only -x c++ - 2>/dev/null; }

# Installs what is missing where that is allowed, and says what to install where not: WHAT "HEADERS" PACKAGE...
need_headers() {
  local what=$1 headers=$2
  shift 2
  # shellcheck disable=SC2086
  have_headers $headers && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing $*"
    { apt-get -qq update && apt-get -qq install -y --no-install-recommends "$@"; } >/dev/null
  fi
  # shellcheck disable=SC2086
  have_headers $headers || die "$what: needs the headers $headers (Debian, Ubuntu: apt-get install $*)"
}

need_server_libraries() { need_headers "the server example" "${server_headers[*]}" "${server_packages[@]}"; }
