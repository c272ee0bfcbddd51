# Shared by the scripts: find a Python that is new enough and make an environment with it.

# Prints the path of a CPython 3.10 or newer, the real interpreter and not a shim.
find_python() {
  local name found
  for name in ${BNBENV_PYTHON:-} python3 python3.13 python3.12 python3.11 python3.10 python3.14 python; do
    found=$("$name" -c 'import sys; sys.version_info >= (3, 10) or sys.exit(1); print(sys.executable)' 2>/dev/null) &&
      [ -n "$found" ] && { printf '%s\n' "$found"; return 0; }
  done
  echo "error: no Python 3.10 or newer was found" >&2
  echo "next: install one (for example: apt install python3 python3-venv), or name one in BNBENV_PYTHON" >&2
  return 1
}

# make_env FOLDER: a virtual environment with pip, made once.
make_env() {
  local python
  [ -x "$1/bin/python" ] && "$1/bin/python" -c 'import pip' 2>/dev/null && return 0
  python=$(find_python) || return 1
  rm -rf "$1"
  if ! "$python" -m venv "$1" >"$1.log" 2>&1; then
    cat "$1.log" >&2
    rm -rf "$1" "$1.log"
    echo "error: $python cannot make a virtual environment" >&2
    echo "next: install its venv module (Debian and Ubuntu: apt install python3-venv), then run this again" >&2
    return 1
  fi
  rm -f "$1.log"
}

# install ENV REQUIREMENT...: with pip, which uses the indexes that this machine is set up with.
install() {
  local env=$1
  shift
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check "$@" || {
    echo "error: the packages could not be installed (pip's own words are above)" >&2
    echo "next: check the network or pip's configuration (pip config list), then run this again" >&2
    return 7
  }
}
