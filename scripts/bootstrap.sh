#!/usr/bin/env bash
# From a fresh machine to a verified environment: installs bnbenv into an environment of its own, and in DIR (default:
# the current folder) runs "bnbenv init" if there is no bnbenv.toml, then "bnbenv sync". It asks nothing, can be run
# again at any time, and completes what a run left that was killed. It needs bash and Python 3.10 or newer.
#
# usage: scripts/bootstrap.sh [DIR] [--prefix FOLDER] [--install-python] [--tool-only] [options of bnbenv sync]
#   --prefix FOLDER    where bnbenv itself is installed. Default: .tool in a checkout; with this file alone /opt/bnbenv
#                      for root and ~/.local/share/bnbenv/tool for others, with a link in /usr/local/bin or ~/.local/bin
#   --install-python   as root: install Python with this distribution's package manager where none is new enough
#   --tool-only        install bnbenv and make no environment
#
# BNBENV_INSTALL   what to install where this file lies in no checkout: a wheel, a folder, an address, a requirement
# BNBENV_PYTHON    the Python to use          BNBENV_FACTS   recorded facts, for images that are built without the GPU
# Indexes, proxies and certificates are those that pip and uv are set up with (PIP_*, pip.conf, UV_*, uv.toml,
# HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE, REQUESTS_CA_BUNDLE). The exit codes are those of bnbenv.
{ # read to the end before anything is run: half a download does nothing
set -euo pipefail
unset CDPATH

# Python is run isolated (-I), so that no file of the current folder, such as venv.py, is taken for a module.

say() { printf 'bootstrap: %s\n' "$*" >&2; }

# fail CODE SENTENCE [NEXT STEP]
fail() {
  printf 'error: %s\n' "$2" >&2
  [ -z "${3:-}" ] || printf 'next: %s\n' "$3" >&2
  exit "$1"
}

# The kind of distribution: its family and the major number of its release, such as "debian 12" or "rhel 9".
distribution() (
  ID='' ID_LIKE='' VERSION_ID=''
  # shellcheck source=/dev/null
  . "${BNBENV_SYSROOT:-}/etc/os-release" 2>/dev/null || true
  case " $ID $ID_LIKE " in
    *" alpine "* | *" postmarketos "*) family=musl ;;
    *" debian "* | *" ubuntu "*) family=debian ;;
    *" amzn "*) family=amazon ;;
    *" rhel "* | *" centos "* | *" ol "*) family=rhel ;;
    *" fedora "*) family=fedora ;;
    *" arch "*) family=arch ;;
    *" suse "* | *" opensuse "* | *" sles "*) family=suse ;;
    *) family=other ;;
  esac
  printf '%s %s\n' "$family" "${VERSION_ID%%.*}"
)

# The command that installs a Python that is new enough; nothing where it is not known.
python_package() {
  case $(distribution) in
    "debian 1"[01] | "debian 18" | "debian 20") ;; # Debian 11, Ubuntu 20.04 and older: their Python is too old
    "debian "*) echo "apt-get install -y --no-install-recommends python3 python3-venv ca-certificates" ;;
    "rhel 8" | "rhel 9") echo "dnf install -y python3.12" ;;
    "amazon "*) echo "dnf install -y python3.11" ;;
    "rhel "* | "fedora "*) echo "dnf install -y python3" ;;
    "arch "*) echo "pacman -S --needed --noconfirm python" ;;
    "suse 15") echo "zypper --non-interactive install python311" ;;
    "suse "*) echo "zypper --non-interactive install python3" ;;
  esac
}

install_python() {
  local command
  command=$(python_package)
  [ -n "$command" ] || fail 1 "how to install Python on this distribution is not known" "Install Python 3.10 or newer."
  [ "$(id -u)" = 0 ] || fail 2 "--install-python is for root" "Run as root: $command"
  say "installing Python: $command"
  export DEBIAN_FRONTEND=noninteractive
  case $command in
    apt-get*) apt-get -q update >&2 || fail 7 "apt cannot reach its sources (its words are above)" "Mend that." ;;
  esac
  # shellcheck disable=SC2086 # a command of this file
  $command >&2 || fail 7 "the package manager failed (its own words are above)" "Run it yourself: $command"
}

# Prints the path of a CPython 3.10 or newer, the real interpreter and not a shim; fails without a word.
find_python() {
  local name found
  set -- python3 python3.13 python3.12 python3.11 python3.10 python3.14 python
  [ -z "${BNBENV_PYTHON:-}" ] || set -- "$BNBENV_PYTHON"
  for name in "$@"; do
    found=$("$name" -I -c 'import sys; sys.version_info >= (3, 10) or sys.exit(1); print(sys.executable)' 2>/dev/null) &&
      [ -n "$found" ] && { printf '%s\n' "$found"; return 0; }
  done
  [ -z "${BNBENV_PYTHON:-}" ] && uv python find --no-project --no-python-downloads '>=3.10' 2>/dev/null
}

no_python() {
  local command step="Install one beside the system's (for example: uv python install 3.12)"
  [ -z "${BNBENV_PYTHON:-}" ] || fail 2 "BNBENV_PYTHON=$BNBENV_PYTHON is no Python 3.10 or newer" "Correct or unset it."
  command=$(python_package)
  [ -z "$command" ] || step="As root: $command"
  fail 1 "no Python 3.10 or newer was found" "$step, or name one in BNBENV_PYTHON."
}

# What follows in Python: "settings" prints what pip lacks and uv or the certificates' variables have, for the shell to
# read; "pip FOLDER" gets a wheel of pip from the places that pip is set up with, for a Python that has none.
sources_program() {
  cat <<'PY'
import configparser, hashlib, html, http.client, os, re, shlex, ssl, sys, urllib.parse, urllib.request

def pip_options():
    """pip's own: its files, the weakest first, then its variables."""
    home, null = os.path.expanduser("~"), os.environ.get("PIP_CONFIG_FILE") == os.devnull
    user = os.environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    folders = ["/etc/xdg/pip", "/etc", home + "/.pip", user + "/pip", home + "/Library/Application Support/pip"]
    files = [folder + "/pip.conf" for folder in folders] + [os.environ.get("PIP_CONFIG_FILE", "")]
    found = {}
    for file in [] if null else files:
        parser = configparser.RawConfigParser()
        try:
            parser.read(file, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            continue  # pip itself says what is wrong in it
        for section in ("global", "install"):
            if parser.has_section(section):
                found.update((name.replace("_", "-"), value) for name, value in parser.items(section))
    variables = {name[4:].lower().replace("_", "-"): value for name, value in os.environ.items() if name[:4] == "PIP_"}
    return {**found, **{name: value for name, value in variables.items() if value}}

def uv_options():
    """uv's, as pip's: variables before files."""
    def words(*names):  # an index may have a name: name=address
        found = re.split(r"[\s,]+", " ".join(os.environ.get(name, "") for name in names).strip())
        return [url.partition("=")[2] if re.match(r"[\w.-]+=", url) else url for url in found if url]

    found = {
        "index-url": words("UV_DEFAULT_INDEX", "UV_INDEX_URL")[:1],
        "extra-index-url": words("UV_INDEX", "UV_EXTRA_INDEX_URL"),
        "find-links": words("UV_FIND_LINKS"),
        "trusted-host": words("UV_INSECURE_HOST"),
    }
    try:
        import tomllib
    except ImportError:
        return found
    user, named = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"), os.environ.get("UV_CONFIG_FILE")
    files = [named] if named else [user + "/uv/uv.toml", "/etc/uv/uv.toml"]
    for file in [] if os.environ.get("UV_NO_CONFIG") else files:
        try:
            with open(file, "rb") as stream:
                table = tomllib.load(stream)
        except (OSError, ValueError):
            continue  # uv itself says what is wrong in it
        for one in (table, table.get("pip", {})):
            indexes = [row for row in one.get("index", []) if row.get("url")]
            default = [row["url"] for row in indexes if row.get("default")] or [one.get("index-url")]
            further = [row["url"] for row in indexes if not row.get("default")] + one.get("extra-index-url", [])
            more = {"index-url": default, "extra-index-url": further, "find-links": one.get("find-links", [])}
            for name, values in more.items():
                found[name] = found[name] or [value for value in values if value]
    return found

def settings():
    pip, wanted = pip_options(), uv_options()
    bundles = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    if os.environ.get("SSL_CERT_FILE") and not any(os.environ.get(name) for name in bundles):
        wanted["cert"] = [os.environ["SSL_CERT_FILE"]]
    if os.environ.get("BNBENV_OFFLINE", "0") not in ("", "0"):
        wanted["no-index"] = ["1"]
    for name, values in wanted.items():
        if values and name not in pip:
            print("export PIP_%s=%s" % (name.upper().replace("-", "_"), shlex.quote(" ".join(values))))

def read(url, options):
    """What lies at an address. Proxies and NO_PROXY are those of the environment, or pip's."""
    bundle = options.get("cert") or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")  # as pip
    trusted = (urllib.parse.urlsplit(url).hostname or "") in options.get("trusted-host", "").split()
    context = ssl._create_unverified_context() if trusted else ssl.create_default_context(cafile=bundle or None)
    handlers = [urllib.request.HTTPSHandler(context=context)]
    if options.get("proxy"):
        handlers.append(urllib.request.ProxyHandler({"http": options["proxy"], "https": options["proxy"]}))
    parts = urllib.parse.urlsplit(url)
    if "@" in parts.netloc:
        manager = urllib.request.HTTPPasswordMgrWithPriorAuth()
        bare = urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        login = [urllib.parse.unquote(part or "") for part in (parts.username, parts.password)]
        manager.add_password(None, bare, *login, is_authenticated=True)
        handlers.append(urllib.request.HTTPBasicAuthHandler(manager))
        url = bare
    with urllib.request.build_opener(*handlers).open(url, timeout=60) as answer:
        return answer.read()

def wheels(place, options):
    """The wheels of pip in a folder or on a page: version, address."""
    if "://" not in place:
        if not os.path.isdir(place):
            return
        folder = "file://" + urllib.request.pathname2url(os.path.abspath(place)) + "/"
        links = [(folder + urllib.parse.quote(name), "") for name in os.listdir(place)]
    else:
        page = read(place, options).decode("utf-8", "replace")
        tags = map(html.unescape, re.findall(r"<a\s((?:[^>\"]|\"[^\"]*\")*)>", page))
        links = [(urllib.parse.urljoin(place, "".join(re.findall(r'href="([^"]*)"', tag))), tag) for tag in tags]
    for url, tag in links:
        name = urllib.parse.unquote(url.partition("#")[0].rpartition("/")[2])
        version = re.fullmatch(r"pip-([0-9.]+)-py3-none-any\.whl", name)
        needs = re.search(r'data-requires-python="[^"]*>=\s*3\.([0-9]+)', tag)
        if version and "data-yanked" not in tag and not (needs and int(needs.group(1)) > sys.version_info[1]):
            yield tuple(map(int, version.group(1).split("."))), url, name

def fetch_pip(folder):
    options = pip_options()
    places = options.get("find-links", "").split()
    if not options.get("no-index"):
        indexes = options.get("index-url", "").split() + options.get("extra-index-url", "").split()
        places += [index.rstrip("/") + "/pip/" for index in indexes if not index.startswith("file:")]
    for place in places:
        try:
            found = sorted(wheels(place, options))
            if not found:
                continue
            _, url, name = found[-1]
            data = read(url.partition("#")[0], options)
        except (OSError, ValueError, http.client.HTTPException) as error:
            shown = error if isinstance(error, OSError) else type(error).__name__  # others quote the address
            print("passed over a source of packages: %s" % (getattr(error, "reason", None) or shown), file=sys.stderr)
            continue
        digest = url.partition("#sha256=")[2]
        if digest and digest != hashlib.sha256(data).hexdigest():
            sys.exit("a source of packages sent another file than it names")
        with open(os.path.join(folder, name), "wb") as stream:
            stream.write(data)
        return
    sys.exit(1)

settings() if sys.argv[1] == "settings" else fetch_pip(sys.argv[2])
PY
}

# pip_wheel ENV: puts a wheel of pip into the folder ENV, from the first place that has one.
pip_wheel() {
  local python
  cp /usr/share/python-wheels/pip-*.whl "$1/" 2>/dev/null && return 0 # Debian's python3-pip-whl
  python=$(find_python)
  "$python" -I -m pip download --quiet --no-deps --dest "$1" pip >/dev/null 2>&1 && return 0
  (
    eval "$("$python" -I -c "$(sources_program)" settings)"
    "$python" -I -c "$(sources_program)" pip "$1"
  ) 2>>"$1/log" && return 0
  command -v apt-get dpkg-deb >/dev/null || return 1
  # This takes no rights and changes nothing: it needs apt's lists alone.
  (cd "$1" && mkdir deb && cd deb && apt-get -q download python3-pip-whl && dpkg-deb -x python3-pip-whl_*.deb . &&
    mv usr/share/python-wheels/pip-*.whl ..) >/dev/null 2>&1
}

# make_env FOLDER: a virtual environment with pip, where there is none yet. What a killed run left is made anew.
make_env() {
  local python work wheel
  [ -x "$1/bin/python" ] && "$1/bin/python" -I -c 'import pip' 2>/dev/null && return 0
  python=$(find_python) || { [ -z "${install_python_too:-}" ] || install_python; python=$(find_python) || no_python; }
  mkdir -p "$1"
  find "$1" -mindepth 1 -maxdepth 1 ! -name .bnbenv-tool -exec rm -rf {} +
  "$python" -I -m venv "$1" >/dev/null 2>&1 && "$1/bin/python" -I -c 'import pip' 2>/dev/null && return 0
  if [ -n "${install_python_too:-}" ]; then # Debian has the rest in a package of its own
    install_python
    python=$(find_python) || no_python
    "$python" -I -m venv --clear "$1" && return 0
  fi
  work=$1/pip-wheel
  mkdir "$work"
  if "$python" -I -m venv --without-pip "$1" >"$work/log" 2>&1 && pip_wheel "$work" && wheel=$(echo "$work"/pip-*.whl) &&
    "$1/bin/python" -I "$wheel/pip" install -q --no-index --disable-pip-version-check "$wheel" >>"$work/log" 2>&1; then
    rm -rf "$work"
    return 0
  fi
  cat "$work/log" >&2
  ! grep -q '^passed over' "$work/log" || fail 7 "no pip could be loaded, which $python lacks" \
    "Check the network, HTTPS_PROXY and PIP_INDEX_URL, or as root: apt-get install python3-venv."
  fail 1 "$python cannot make a virtual environment with pip" \
    "Install its venv module (on Debian and Ubuntu as root: apt-get install python3-venv), then run this again."
}

# install ENV REQUIREMENT...: with pip, which uses the indexes that this machine is set up with.
install() {
  local env=$1 log=$1/install.log
  shift
  (
    eval "$("$env/bin/python" -I -c "$(sources_program)" settings)"
    unset PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX # of what pip starts, too
    PIP_USER=0 exec "$env/bin/python" -I -m pip install --quiet --no-input --disable-pip-version-check "$@"
  ) >"$log" 2>&1 && { rm -f "$log"; return 0; }
  cat "$log" >&2
  case $(cat "$log") in
    *"No space left"* | *"isk quota"* | *"ermission denied"* | *"ead-only file system"*)
      fail 1 "the packages could not be written into $env (pip's words are above)" "Mend that, then run this again." ;;
    *"requires a different Python"* | *"subprocess-exited"* | *"Invalid requirement"* | *"not a supported wheel"*)
      fail 1 "the packages could not be installed (pip's own words are above)" "Mend that, then run this again." ;;
  esac
  fail 7 "the packages could not be loaded (pip's own words are above)" \
    "Check the network, HTTPS_PROXY and pip's configuration (pip config list), then run this again."
}

# What is installed, for a second run to compare; nothing where only pip can tell (a folder).
stamp_of() {
  if [ "$1" = --editable ]; then
    printf '%s %s\n' "$*" "$(cksum <"$2/pyproject.toml")"
  elif [ "${1#/}" = "$1" ]; then
    printf '%s' "$1" | cksum # not the words: an address can hold a password
  elif [ -f "$1" ]; then
    printf '%s %s\n' "$1" "$(cksum <"$1")"
  fi
}

# install_tool PREFIX WHAT...: bnbenv in an environment of its own. The marker tells whose folder it is, and is empty
# until all is installed.
install_tool() {
  local prefix=$1 marker=$1/.bnbenv-tool stamp
  shift
  if [ -n "$(ls -A "$prefix" 2>/dev/null)" ] && [ ! -e "$marker" ] && [ "$prefix" != "${repo:-}/.tool" ]; then
    fail 2 "$prefix holds something else than bnbenv" "Name another folder with --prefix."
  fi
  mkdir -p "$prefix" 2>/dev/null || true
  [ -w "$prefix" ] || fail 1 "$prefix cannot be written" "Name another folder with --prefix."
  exec 9<"$prefix"
  if command -v flock >/dev/null; then
    flock -w 600 9 || fail 8 "another bootstrap is at work on $prefix" "Wait for it."
  fi
  stamp=$(stamp_of "$@")
  if [ -z "$stamp" ] || [ "$stamp" != "$(cat "$marker" 2>/dev/null)" ] ||
    ! "$prefix/bin/bnbenv" --version >/dev/null 2>&1; then
    say "installing bnbenv into $prefix"
    [ -s "$marker" ] || rm -rf "${prefix:?}/bin" # what was never finished is made anew
    : >"$marker"
    make_env "$prefix"
    install "$prefix" "$@"
    "$prefix/bin/bnbenv" --version >/dev/null || fail 1 "bnbenv was installed into $prefix and does not start"
    printf '%s\n' "$stamp" >"$marker"
  fi
  exec 9<&-
}

# link_tool PREFIX FOLDER: bnbenv's command in a folder that is on the PATH, unless something else is there.
link_tool() {
  local link=$2/bnbenv tool
  tool=$(readlink -f "$link" 2>/dev/null) || true # pipx and uv make links of that name, too
  if [ ! -e "$link" ] || { [ -L "$link" ] && [ -e "${tool%/bin/bnbenv}/.bnbenv-tool" ]; }; then
    mkdir -p "$2" 2>/dev/null && ln -sfn "$1/bin/bnbenv" "$link" 2>/dev/null && return 0
  fi
  say "not linked: $link is something else, or cannot be written; use $1/bin/bnbenv"
}

# Sets repo where this file lies in a checkout, and what (an array) is to be installed.
find_what() {
  local source=${BASH_SOURCE[0]:-}
  what=("${BNBENV_INSTALL:-bnbenv}") repo=''
  if [ -n "${BNBENV_INSTALL:-}" ]; then
    case $BNBENV_INSTALL in
      *://*) ;;
      */* | *.whl | *.tar.gz)
        [ -e "$BNBENV_INSTALL" ] || fail 2 "BNBENV_INSTALL: there is no $BNBENV_INSTALL" "Correct or unset it."
        what=("$(cd "$(dirname "$BNBENV_INSTALL")" && pwd)/$(basename "$BNBENV_INSTALL")") ;;
    esac
  elif [ -n "$source" ] && [ -f "$(dirname "$source")/../pyproject.toml" ]; then
    repo=$(cd "$(dirname "$source")/.." && pwd)
    what=("$repo")
    [ -n "$1" ] || what=(--editable "$repo")
  fi
}

# Prints the whole path of a folder, which is made.
made() {
  mkdir -p "$1" 2>/dev/null || fail 1 "the folder $1 cannot be made" "Name another one."
  (cd "$1" && pwd)
}

main() {
  local dir=. prefix='' tool_only='' bnbenv mask code=0 rest=()
  install_python_too=''
  while [ $# -gt 0 ]; do
    case $1 in
      -h | --help) sed -n '2,/^{/s/^# \{0,1\}//p' "${BASH_SOURCE[0]:-/dev/null}"; return 0 ;;
      --prefix) [ $# -gt 1 ] || fail 2 "--prefix needs a folder"; prefix=$2; shift ;;
      --prefix=*) prefix=${1#*=} ;;
      --install-python) install_python_too=yes ;;
      --tool-only) tool_only=yes ;;
      *) rest+=("$1") ;;
    esac
    shift
  done
  if [ ${#rest[@]} -gt 0 ] && [ "${rest[0]#-}" = "${rest[0]}" ]; then dir=${rest[0]}; rest=("${rest[@]:1}"); fi
  case $(distribution) in
    musl*) fail 4 "the C library here is musl: torch and bitsandbytes publish no wheels for it" \
      "Take a distribution with glibc 2.28 or newer, such as Debian 12, Ubuntu 22.04 or RHEL 9." ;;
  esac
  find_what "$prefix"
  if [ -n "$prefix" ]; then
    prefix=$(made "$prefix")
    install_tool "$prefix" "${what[@]}"
  elif [ -n "$repo" ]; then
    prefix=$repo/.tool
    install_tool "$prefix" "${what[@]}"
  elif [ "$(id -u)" = 0 ]; then
    prefix=/opt/bnbenv
    mask=$(umask)
    umask 022 # for all users of the machine
    install_tool "$prefix" "${what[@]}"
    link_tool "$prefix" /usr/local/bin
    umask "$mask"
  else
    [ -n "${HOME:-}" ] || fail 2 "this user has no home folder" "Name a folder with --prefix."
    prefix=${BNBENV_HOME:-${XDG_DATA_HOME:-$HOME/.local/share}/bnbenv}/tool
    install_tool "$prefix" "${what[@]}"
    link_tool "$prefix" "$HOME/.local/bin"
  fi
  bnbenv=$prefix/bin/bnbenv
  if [ -n "$tool_only" ]; then say "bnbenv is installed: $bnbenv"; return 0; fi
  dir=$(made "$dir")
  [ -e "$dir/bnbenv.toml" ] || "$bnbenv" init --project "$dir" >/dev/null || return $?
  "$bnbenv" sync --project "$dir" ${rest[@]+"${rest[@]}"} || code=$?
  if [ $code -eq 0 ] && [ -n "${BNBENV_FACTS:-}" ]; then
    say "made from recorded facts; on the machine itself, once: $bnbenv sync --locked --project $dir"
  elif [ $code -eq 0 ]; then
    say "from now on: $bnbenv check --project $dir"
  fi
  return $code
}

# scripts/test.sh takes the functions from here.
if [ "${BASH_SOURCE[0]:-$0}" = "$0" ]; then
  main "$@" </dev/null
  exit
fi
}
