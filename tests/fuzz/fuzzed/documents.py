"""Valid documents of people and programs, from which inputs are made. Some hold a password that nobody may be shown."""

from __future__ import annotations

import json

from .edits import SECRET

_A = "a" * 64
_B = "55348a9a4a21bfd99cf8c7b32fe67b4030ae5c2a05738e03c1747f65fa6ec283"  # of bitsandbytes 0.50.2 for Linux x86-64

WISHES = (
    b'[envs.bnb]\ntorch = ">=2.8,<3"\nbitsandbytes = "0.50.*"\npython = ">=3.10"\ngpus = [0, "GPU-1"]\n'
    b'requirements = ["transformers", "peft>=0.14; python_version > \'3.9\'"]\nbackend = "cuda"\n\n'
    b'[envs.other]\ngpus = "all"  # all of them\n\n[policy]\nprefer = "minimal-change"\nbuild = "never"\nmix = false\n'
    b'[sources]\nindexes = ["https://host/simple"]\nfind-links = ["wheels", "~/wheels"]\n',
    b'envs = {bnb = {torch = "2.9"}, two = {}}\n',
    b'envs.bnb.torch = "*"\nenvs.bnb.requirements = []\n[envs.x]\nfamily = "bitsandbytes"\n',
    b'[envs]\n[envs."quoted-1"]\ntorch = """2.9.1"""\n',
    b"",
)

LOCK = f"""\
lock-version = "1.0"
created-by = "uv"
requires-python = ">=3.11"

[[packages]]
name = "bitsandbytes"
version = "0.50.2"
wheels = [{{ url = "https://host/bitsandbytes-0.50.2-py3-none-any.whl", hashes = {{ sha256 = "{_B}" }} }}]

[[packages]]
name = "torch"
version = "2.13.0+cpu"
sdist = {{ path = "/srv/torch-2.13.0.tar.gz", upload-time = 2026-11-17T06:35:26Z, hashes = {{ sha256 = "{_A}" }} }}

[tool.bnbenv]
env = "bnb"
wishes = "{_A}"
schema = "bnbenv.lock/1"

[tool.bnbenv.solution]
backend = "cpu"
covers = []
rejected = []
visible_devices = []
torch_sha256 = "{_A}"
evidence = [{{ about = "torch", level = "measured", source = "torch.whl" }}]

[tool.bnbenv.solution.choice]
python = "3.11"
environment = {{}}

[tool.bnbenv.solution.choice.torch]
version = "2.13.0+cpu"
source = "local"

[tool.bnbenv.solution.choice.bitsandbytes]
version = "0.50.2"
source = "wheel"
library = "libbitsandbytes_cpu.so"
sha256 = "{_B}"
filename = "bitsandbytes-0.50.2-py3-none-manylinux_2_24_x86_64.whl"

[tool.bnbenv.torch]
version = "2.13.0+cpu"
source = "local"
os = "linux"
machine = "x86_64"
arch_list = []
pythons = ["cp311"]
libc_tag = "2.28"
requires_python = ">=3.10"
requires_dist = ["filelock", "sympy>=1.13.3", "optree>=0.13.0; extra == 'optree'"]
path = "/srv/wheels/torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl"
sha256 = "{_A}"

[tool.bnbenv.torch.evidence]
level = "measured"
source = "torch.whl sha256:{_A}"
date = "2026-11-21"
""".encode()

_CHOICE = {
    "python": "3.11",
    "torch": {"version": "2.13.0+cpu", "cuda": None, "source": "local", "index": None},
    "bitsandbytes": {"version": "0.50.2", "source": "wheel", "library": "libbitsandbytes_cpu.so", "sha256": _A},
    "environment": {},
}
RECORD = json.dumps(
    {
        "schema": "bnbenv.generation/1",
        "generation": 1,
        "created": "2026-11-21T04:39:57+00:00",
        "python": "3.11",
        "wishes": _A,
        "config": _A,
        "environments": ["bnb"],
        "lock": _A,
        "host": {"libc": "glibc 2.36", "driver module": "580.65.06", "GPU 0000:01:00.0 UUID": "GPU-1"},
        "facts": {"driver": {"state": "absent"}, "gpus": [], "platform": {"os": "linux"}},
        "packages": {"torch-2.13.0+cpu": _A, "filelock-4.2.11": ""},
        "files": {"torch/__init__.py": [111841, 1795235986523594705]},
        "decision": {"backend": "cpu", "choice": _CHOICE, "covers": [], "visible_devices": []},
        "verified": True,
        "verification": {"ok": True},
    }
).encode()

UV_FILES = (
    f"""index-url = "https://me:{SECRET}@host/simple"
extra-index-url = ["https://other/simple"]
find-links = ["wheels", "file:///srv/wheels"]
no-index = false
index-strategy = "unsafe-best-match"
offline = true
native-tls = true
allow-insecure-host = ["host:8443"]

[pip]
index-url = "https://third/simple"
""".encode(),
    f"""[[index]]
name = "mine"
url = "https://me:{SECRET}@host/simple"
default = true

[[index]]
name = "links"
url = "../links"
format = "flat"
explicit = false
""".encode(),
    b'index = [{url = "https://host/simple", explicit = true}]\n',
)

PIP_FILES = (
    f"""[global]
index-url = https://me:{SECRET}@host/simple
extra-index-url =
    https://other/simple
    https://third/simple
timeout = 60
no-index = no
trusted-host = host:8443 other
cert = /etc/ssl/ca.pem
client-cert = /etc/ssl/me.pem
proxy = http://me:{SECRET}@proxy:3128
find-links = ~/wheels ../other

[install]
no-index = true
--default-timeout: 15
""".encode(),
    b"[download]\nfind_links=/srv/wheels\n; a remark\n# another\n",
)

SETTINGS = (
    f"""UV_INDEX=mine https://me:{SECRET}@host/simple named=https://host/x
UV_EXTRA_INDEX_URL=https://other/simple ../folder
UV_DEFAULT_INDEX=https://me:{SECRET}@host/simple
UV_INDEX_URL=https://third/simple
UV_FIND_LINKS=wheels,file:///srv/wheels, ~/x
UV_INDEX_MINE_USERNAME=me
UV_INDEX_MINE_PASSWORD={SECRET}
UV_OFFLINE=1
BNBENV_OFFLINE=0
BNBENV_PYTORCH_INDEX=https://mirror/whl
UV_INDEX_STRATEGY=first-index
UV_INSECURE_HOST=host:8443 other
PIP_INDEX_URL=https://me:{SECRET}@pip/simple
PIP_EXTRA_INDEX_URL=https://pip/extra
PIP_FIND_LINKS=/srv/links
PIP_NO_INDEX=false
PIP_TIMEOUT=30
PIP_DEFAULT_TIMEOUT=1.5
PIP_PROXY=http://me:{SECRET}@proxy:3128
PIP_CERT=/etc/ssl/ca.pem
HTTPS_PROXY=proxy:3128
SSL_CERT_FILE=/etc/ssl/ca.pem
UV_HTTP_TIMEOUT=5""".encode(),
)

_FILE = {
    "filename": "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl",
    "url": "https://host/files/torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl",
    "hashes": {"sha256": _A},
    "requires-python": ">=3.10",
    "yanked": False,
    "core-metadata": {"sha256": _A},
    "size": 1000,
    "upload-time": "2026-08-27T00:10:54.123456Z",
}
_OTHER = {"filename": "torch-1.0.tar.gz", "url": "torch-1.0.tar.gz", "hashes": {}, "yanked": "broken", "gpg-sig": True}
PAGES = (
    json.dumps({"meta": {"api-version": "1.1"}, "name": "torch", "files": [_FILE, _OTHER], "versions": ["1"]}).encode(),
    json.dumps({"meta": {"api-version": "1.0"}, "name": "torch", "files": []}).encode(),
    b'<!DOCTYPE html><html><head><meta name="pypi:repository-version" content="1.0"><base href="https://x/y/">'
    b'</head><body><a href="../f/torch-2.13.0%2Bcpu-cp311-cp311-linux_x86_64.whl#sha256=' + _A.encode() + b'" '
    b'data-requires-python="&gt;=3.10" data-yanked="x" data-dist-info-metadata="sha256=00" data-gpg-sig="true">'
    b"torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl</a><br/></body></html>",
    b'<a href="bitsandbytes-0.50.2-py3-none-any.whl">Download</a><a href="http://[x/torch-1-py3-none-any.whl">y</a>',
    b"<html><title>Please log in</title></html>",
)

ERRORS = tuple(
    text.encode()
    for text in (
        "error: Failed to build `gptqmodel==7.6.0`\n  cause: The build backend returned an error\n"
        "  cause: Call to `setuptools.build_meta` failed (exit status: 1)\n\n         [stderr]\n"
        "         OSError: [Errno 28] No space left on device: '/tmp/x.o'\n",
        f"error: Failed to fetch: https://me:{SECRET}@host/simple/torch/\n"
        f"  cause: error sending request for url (https://me:{SECRET}@host/simple/torch/)\n"
        "  cause: client error (Connect)\n  cause: invalid peer certificate: UnknownIssuer\n",
        "error: Failed to install: torch-2.13.0.whl (torch==2.13.0)\n"
        "  cause: failed to copy file from `/cache/a` to `/home/me/b`: Disk quota exceeded (os error 122)\n",
        "error: No solution found when resolving dependencies:\n  cause: Because only alpha==1.0 is available and beta "
        "depends on alpha>=2, we can conclude that your requirements are unsatisfiable.\nhint: try alpha\n",
        "warning: old\nerror: Failed to parse: `uv.toml`\n  cause: TOML parse error at line 1, column 1\n",
        "error: Because torch was not found in the package registry and you require torch==9, requirements are "
        "unsatisfiable\n",
        "error: Hash mismatch for `alpha==1.0`\n\nExpected:\n  sha256:00\n\nComputed:\n  sha256:11\n",
        f"error: HTTP status client error (401 Unauthorized) for url (https://me:{SECRET}@host/simple/torch/)\n",
        f"error: Git operation failed\n  cause: unable to access 'https://{SECRET}@host/x/': Failed to connect\n",
        "error: The requested interpreter resolved to Python 3.11.7, which is incompatible with the pylock.toml's "
        "Python requirement: `>=3.99`\n",
        "error: Received some unexpected JSON from `https://host/simple/alpha/`\n  cause: EOF while parsing\n",
        f"Authorization: Bearer {SECRET}\nsee https://host/f?token={SECRET}&x=1#y UV_INDEX_MINE_PASSWORD={SECRET}\n",
    )
)
