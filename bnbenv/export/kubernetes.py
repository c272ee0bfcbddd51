"""A Pod and a Job that start only where the environment's kernels ran on the GPU that they were given. Pure.

Fields: kubernetes.io/docs/reference/kubernetes-api, Pod v1 and Job batch/v1; init containers that fail with
``restartPolicy: Never`` fail their pod (concepts/workloads/pods/init-containers); where a container wrote no
termination message the end of its log is taken (tasks/debug/debug-application/determine-reason-pod-failure); exit codes
that are not tried again (tasks/job/pod-failure-policy). GPUs are limits (tasks/manage-gpus/scheduling-gpus).
"""

from __future__ import annotations

import json
import re

from bnbenv.export.model import Exported
from bnbenv.export.texts import PREFIX

_HEAD = """\
# A Pod, and a Job, whose first container runs the kernels of the environment "{env}" on the very {device}
# that the second one gets: {title}, Python {python}.
# Printed by bnbenv {version}. Keep one of the two documents. Beforehand, the image:
#   bnbenv export dockerfile {which}--with-bnbenv -o Dockerfile
#   docker build -t {image} . && docker push {image}
# Where the kernels fail, the pod fails, and nothing of the second container runs. Why:
#   kubectl get pod {name} -o jsonpath='{{.status.initContainerStatuses[0].state.terminated.message}}'
"""

_SPEC = """\
restartPolicy: Never
initContainers:
  - name: verify
    image: {image}
    # Exit 0: every result is right; 2: there is no such GPU; 5: a result is wrong; 6: the node needs a reboot.
    command: {verify}
    # The last lines that it printed are the reason, see above.
    terminationMessagePath: /dev/termination-log
    terminationMessagePolicy: FallbackToLogsOnError
{resources}\
containers:
  - name: main
    image: {image}
    command: {main}
{resources}"""

_RESOURCES = """\
    resources:
      limits:
        nvidia.com/gpu: 1
"""

_POD = """\
apiVersion: v1
kind: Pod
metadata:
  name: {name}
spec:
"""

_JOB = """\
---
apiVersion: batch/v1
kind: Job
metadata:
  name: {name}
spec:
  backoffLimit: 3
  podFailurePolicy:
    rules:
      # What another try would not change ends the job at once; a reboot that a node needs is that node's alone.
      - action: FailJob
        onExitCodes:
          containerName: verify
          operator: In
          values: [2, 5]
  template:
    spec:
"""


def kubernetes(given: Exported, image: str, version: str) -> str:
    """The YAML of a Pod and a Job, each of which begins with ``bnbenv verify``. ``version`` is bnbenv's."""
    place = f"{PREFIX}/{given.env}"
    device = "0" if given.cuda else "cpu"
    name = "bnbenv-" + (re.sub(r"[^a-z0-9]+", "-", given.env.lower()).strip("-") or "env")[:40].strip("-")
    spec = _SPEC.format(
        image=json.dumps(image),
        verify=json.dumps(["bnbenv", "verify", "--python", place, "--device", device]),
        main=json.dumps([f"{place}/bin/python", "-c", "import bitsandbytes; print('put your command here')"]),
        resources=_RESOURCES if given.cuda else "",
    )
    head = _HEAD.format(
        env=given.env,
        device="GPU" if given.cuda else "node",
        title=given.title,
        python=given.python,
        version=version,
        which=f"--env {given.env} " if given.env != "bnb" else "",
        image=image,
        name=name,
    )
    return head + _POD.format(name=name) + _indented(spec, 2) + _JOB.format(name=name) + _indented(spec, 6)


def image_name(given: Exported) -> str:
    """The image's name where nobody names one: the environment and what it is made of, in signs that a tag takes."""
    tag = re.sub(r"[^A-Za-z0-9_.-]+", "-", re.sub(r"[(),]", "", given.title))[:100].strip(".-")
    return f"bnbenv-{re.sub(r'[^a-z0-9]+', '-', given.env.lower()).strip('-') or 'env'}:{tag}"


def _indented(text: str, spaces: int) -> str:
    return "".join(f"{' ' * spaces}{line}\n" for line in text.splitlines())
