#!/bin/sh
# Installs bnbenv on this host: install.sh bundle|requirement PREFIX LINKS STAMP WHAT [SHA256]
# PREFIX is the folder for it, LINKS the folder for the link (empty: none), STAMP what .bnbenv-tool says afterwards,
# WHAT the bundle's file or what pip is to install, SHA256 that of the bundle.
set -eu
unset CDPATH
kind=$1 prefix=$2 links=$3 stamp=$4 what=$5 sha256=${6:-}
marker=$prefix/.bnbenv-tool
[ "$(id -u)" != 0 ] || umask 022 # for all users of the machine

# fail SENTENCE [NEXT STEP]
fail() {
  echo "$1." "${2:-}" >&2
  exit 1
}

# Prints a Python that is new enough for bnbenv; fails without a word.
find_python() {
  for name in python3 python3.13 python3.12 python3.11 python3.10 python3.14; do
    "$name" -I -c 'import sys; sys.version_info >= (3, 10) or sys.exit(1); print(sys.executable)' 2>/dev/null && return
  done
  return 1
}

# Fails, and tells what a program said.
said() {
  echo "$1." "$2" >&2
  tail -n 5 "$log" >&2
  exit 1
}

unpack() {
  found=$(sha256sum "$what" 2>/dev/null || python3 -I -c 'import hashlib, sys
print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' "$what")
  [ "${found%% *}" = "$sha256" ] || fail "what arrived is another file than the bundle that was sent" "Run it again."
  mkdir "$prefix.unpacked"
  tar -xf "$what" --no-same-owner -C "$prefix.unpacked" 2>"$log" ||
    said "the bundle could not be unpacked into $prefix.unpacked" "Look whether there is space."
  [ -f "$prefix.unpacked/install.sh" ] || fail "this file is no bundle of bnbenv" "Write one with: bnbenv bundle"
}

from_index() {
  if ! "$prefix/bin/python" -I -c 'import pip' 2>/dev/null; then
    python=$(find_python) || fail "there is no Python 3.10 or newer on this host" "Install one, or give a bundle."
    "$python" -I -m venv --clear "$prefix.venv" >"$log" 2>&1 ||
      said "$python cannot make a virtual environment" "Install its venv module, on Debian: apt-get install python3-venv."
    rm -rf "$prefix.venv"
    "$python" -I -m venv "$prefix" >"$log" 2>&1 || said "no virtual environment could be made in $prefix" ""
  fi
  unset PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX
  PIP_USER=0 "$prefix/bin/python" -I -m pip install --quiet --no-input --disable-pip-version-check --upgrade "$what" \
    >"$log" 2>&1 || said "pip could not install bnbenv" "Look at the network and the configuration of pip there."
}

works() { "$prefix/bin/bnbenv" --version >/dev/null 2>&1; }

if [ -n "$(ls -A "$prefix" 2>/dev/null)" ] && [ ! -e "$marker" ] && [ ! -e "$prefix/bin/bnbenv" ]; then
  fail "$prefix holds something else than bnbenv" "Name another folder with bootstrap_prefix."
fi
if ! mkdir -p "$prefix" 2>/dev/null || [ ! -w "$prefix" ]; then
  fail "$prefix cannot be written" "Name another folder with bootstrap_prefix, or use become."
fi
exec 9<"$prefix"
if command -v flock >/dev/null; then
  flock -w 600 9 || fail "another bootstrap is at work on $prefix" "Wait for it."
fi
if [ "$(cat "$marker" 2>/dev/null)" != "$stamp" ] || ! works; then
  log=$prefix.log
  rm -rf "$prefix.unpacked"
  trap 'rm -rf "$prefix.unpacked" "$log"' EXIT
  [ "$kind" != bundle ] || unpack # what cannot be used leaves everything as it is
  # The marker is empty until all is there: what was never finished, and does not start, is made anew.
  [ -s "$marker" ] || works || find "$prefix" -mindepth 1 -maxdepth 1 ! -name .bnbenv-tool -exec rm -rf {} +
  : >"$marker"
  # Another one of the same version is installed over this one, too.
  rm -rf "$prefix"/lib/python*/site-packages/bnbenv-*.dist-info
  if [ "$kind" = bundle ]; then
    sh "$prefix.unpacked/install.sh" "$prefix" >"$log" 2>&1 || said "bnbenv could not be installed" ""
  else
    from_index
  fi
  works || fail "bnbenv was installed into $prefix and does not start"
  printf '%s\n' "$stamp" >"$marker"
fi
if [ -n "$links" ]; then
  link=$links/bnbenv
  there=$(readlink -f "$link" 2>/dev/null) || true
  if [ ! -e "$link" ] || { [ -L "$link" ] && [ -e "${there%/bin/bnbenv}/.bnbenv-tool" ]; }; then
    mkdir -p "$links" 2>/dev/null && ln -sfn "$prefix/bin/bnbenv" "$link" 2>/dev/null || links=
  else
    links=
  fi
  [ -n "$links" ] || echo "not linked: $link is something else, or cannot be written; use $prefix/bin/bnbenv"
fi
echo bnbenv-installed
