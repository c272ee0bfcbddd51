"""Fixes about the driver and which GPUs a process sees. People carry them out: most need root, or a reboot. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from bnbenv.doctor.fixes.compiling import compiled
from bnbenv.doctor.fixes.install import other_pair, own_generation
from bnbenv.doctor.fixes.model import Treatment
from bnbenv.doctor.fixes.patient import Patient, told
from bnbenv.doctor.model import Cause

ASK_AHEAD = "An upgrade can lose an old card; ask first: bnbenv plan --driver {version}"


def reboot(patient: Patient) -> Treatment:
    """Kernel module and library differ, as they do between a driver upgrade and the reboot."""
    driver = patient.examination.facts.driver if patient.examination else None
    both = (
        f"The module is {driver.kernel_module}, the library {driver.userland}."
        if driver and driver.kernel_module and driver.userland
        else ""
    )
    inside = patient.examination is not None and patient.examination.facts.platform.container
    return told(
        "Reboot this machine: the driver was upgraded and the old kernel module is still loaded.",
        both,
        "In a container: reboot the host, then start the container again; nothing inside it helps." if inside else "",
        "Without a reboot, with every program that uses a GPU ended: sudo "
        "rmmod nvidia_uvm nvidia_drm nvidia_modeset nvidia"
        "; sudo modprobe nvidia",
        "Do not reinstall torch or bitsandbytes for this: they are not the cause.",
        "To keep it from coming back on a server: sudo apt-mark hold the "
        "nvidia driver packages, and upgrade them by hand.",
        command="sudo reboot",
    )


def too_old(patient: Patient) -> Treatment:
    """The driver cannot run torch's CUDA: a torch for this driver, or a newer driver."""
    version = patient.chosen.driver or _first_driver(patient.torch_cuda)
    steps = []
    if version:
        steps = [
            f"Or upgrade the driver to {version} or newer, which runs the torch that is there.",
            ASK_AHEAD.format(version=version),
        ]
    if patient.os == "linux":
        steps.append(
            "Driver upgrade on Ubuntu: sudo ubuntu-drivers install; elsewhere as the distribution says; then reboot."
        )
    steps.append(
        "In a container it is the host's driver that counts. Error 804: "
        "remove the container's cuda-compat libraries from "
        "LD_LIBRARY_PATH (/usr/local/cuda/compat), they run on data centre GPUs only."
    )
    if patient.own:
        found = own_generation(patient, "with torch and bitsandbytes for this driver.")
    elif patient.foreign and patient.chosen.pair is not None:
        found = other_pair(patient)
    else:
        return told(
            "Take a torch for the driver that is there, or upgrade the driver.",
            "bnbenv solve names torch, its index and the bitsandbytes that fit this driver.",
            *steps,
            command="bnbenv solve",
        )
    fix = msgspec.structs.replace(found.fix, steps=(*found.fix.steps, *steps))
    return Treatment(fix, found.actions)


def _first_driver(cuda: str | None) -> str | None:
    """The oldest driver of a CUDA major (minor-version compatibility). The matrix says the same, in drivers.toml."""
    return {"11": "450.80.02", "12": "525.60.13", "13": "580"}.get(cuda.partition(".")[0]) if cuda else None


def no_gpu(patient: Patient) -> Treatment:
    """No GPU is to be seen, and it is not known why."""
    facts = patient.examination.facts if patient.examination else None
    if facts is not None and facts.platform.container:
        return container(patient)
    if facts is not None and facts.platform.wsl:
        return wsl(patient)
    if patient.os == "macos":
        return told(
            "There is no CUDA on macOS: run on the CPU, or on a machine with an NVIDIA GPU.",
            "bitsandbytes 0.49 and newer have a CPU library for macOS; on Apple GPUs, MLX or llama.cpp quantize too.",
            command="bnbenv sync",
        )
    return told(
        "Let this process see a GPU: the driver has to be loaded, and nothing may hide the cards.",
        "Is there one? nvidia-smi -L",
        "Is it hidden? env | grep -i VISIBLE_DEVICES, and unset what hides it.",
        "In Docker: docker run --gpus all (compose: deploy.resources.reservations.devices with capabilities: [gpu]). "
        "docker build has no GPU: install there with recorded facts (BNBENV_FACTS).",
        "On a cluster, login nodes have none: salloc --gres=gpu:1, or srun --gres=gpu:1 --pty bash",
        "Without a GPU for good, bnbenv makes an environment for the CPU: bnbenv sync --backend cpu",
        command="nvidia-smi -L",
    )


def container(patient: Patient) -> Treatment:
    """A container that was started without GPUs."""
    return told(
        "Start the container with its GPUs: docker run --gpus all ...",
        "On the host, once: install nvidia-container-toolkit, then sudo "
        "nvidia-ctk runtime configure --runtime=docker && "
        "sudo systemctl restart docker",
        "Podman: --device nvidia.com/gpu=all. Kubernetes: resources.limits nvidia.com/gpu: 1. Apptainer: --nv",
        "Does it work? docker run --rm --gpus all ubuntu nvidia-smi -L",
        command="docker run --gpus all IMAGE",
    )


def module(patient: Patient) -> Treatment:
    """The driver is installed and its kernel module is not loaded."""
    return told(
        "Load the kernel module; if that fails, build it for the running kernel.",
        "Built for this kernel? dkms status; if not: sudo apt-get install "
        "linux-headers-$(uname -r) && sudo dkms autoinstall",
        "If it says 'Key was rejected', Secure Boot refuses it. Enrol the key: sudo "
        "mokutil --import /var/lib/shim-signed/mok/MOK.der, "
        "then reboot.",
        "If nouveau is loaded (lsmod | grep nouveau), it has to be blacklisted, the initramfs rebuilt, and a reboot.",
        command="sudo modprobe nvidia && sudo modprobe nvidia-uvm",
    )


def absent(patient: Patient) -> Treatment:
    """There is an NVIDIA GPU and no driver."""
    if patient.examination is not None and patient.examination.facts.platform.container:
        return container(patient)
    return told(
        "Install the NVIDIA driver.",
        "Ubuntu: sudo ubuntu-drivers install, then reboot. Debian: apt-get "
        "install nvidia-driver (non-free), then reboot.",
        "Fedora: akmod-nvidia of RPM Fusion. Windows: NVIDIA's installer; WSL2 then has it as well.",
        "Only the driver is needed: torch's wheels bring the CUDA libraries, no toolkit is required.",
        command="sudo ubuntu-drivers install",
    )


def uvm(patient: Patient) -> Treatment:
    """/dev/nvidia-uvm is missing: nvidia-smi works and CUDA does not."""
    return told(
        "Create the device /dev/nvidia-uvm: without it CUDA sees no GPU, though nvidia-smi does.",
        "At each boot: nvidia-modprobe -u -c=0 from a unit, or have nvidia-persistenced run.",
        "In a container: pass /dev/nvidia-uvm and /dev/nvidia-uvm-tools in, as --gpus all does.",
        command="sudo modprobe nvidia-uvm && sudo nvidia-modprobe -u -c=0",
    )


def wsl(patient: Patient) -> Treatment:
    """WSL2: the driver is Windows', and a Linux driver inside is in its way."""
    return told(
        "In WSL2 the driver is the one of Windows: install none inside, and have /usr/lib/wsl/lib found first.",
        "If a Linux driver was installed inside: sudo apt-get purge 'nvidia-driver-*' 'libnvidia-compute-*'",
        "In PowerShell: wsl --update, then wsl --shutdown; upgrade the NVIDIA driver in Windows.",
        "Is it there? ls /usr/lib/wsl/lib/libcuda.so.1 && /usr/lib/wsl/lib/nvidia-smi -L",
        "If only the path is missing: export LD_LIBRARY_PATH=/usr/lib/wsl/lib:$LD_LIBRARY_PATH",
        "It has to be WSL 2: wsl -l -v in PowerShell; to change: wsl --set-version NAME 2",
        command="wsl.exe --update && wsl.exe --shutdown",
    )


def hidden(patient: Patient) -> Treatment:
    """CUDA_VISIBLE_DEVICES hides what is there."""
    settings = patient.examination.settings if patient.examination else ()
    lives = [one for one in settings if one.name == "CUDA_VISIBLE_DEVICES"]
    steps = [
        f"It is set in {one.file}, line {one.line or '?'}: CUDA_VISIBLE_DEVICES={one.value}"
        if one.file
        else f"It is set in this process to '{one.value}': by your shell, or by the job scheduler, which then means it."
        for one in lives
    ]
    steps.append(
        "It takes indices (0,1) or UUIDs (nvidia-smi -L); empty or -1 hides all, and so does what does not exist."
    )
    return told(
        "Unset CUDA_VISIBLE_DEVICES, or have it name GPUs that exist.", *steps, command="unset CUDA_VISIBLE_DEVICES"
    )


def lost(patient: Patient) -> Treatment:
    """A GPU no longer answers, or the driver answers with an error."""
    return told(
        "See what the kernel says of the GPU, then reboot; if it happens again, the card or its power is at fault.",
        "Xid 79 ('fallen off the bus'): power or seat of the card. ECC (Xid "
        "48, 94, 95): a reset clears it, or the card goes.",
        "Until then go on with the others: bnbenv sync --gpus 0 (those that answer: nvidia-smi -L)",
        command="sudo dmesg | grep -iE 'nvrm|xid'",
    )


def silent(patient: Patient) -> Treatment:
    """The driver answers with an error: where no kernel module is loaded, no card is at fault."""
    driver = patient.examination.facts.driver if patient.examination else None
    return module(patient) if driver is not None and driver.kernel_module is None else lost(patient)


def dropped(patient: Patient) -> Treatment:
    """The driver no longer supports the card."""
    return told(
        "Install the last driver branch that supports this card: 580 for Maxwell, Pascal and Volta.",
        "bnbenv plan --driver 580 says beforehand what fits it.",
        "Or go on without the card: bnbenv sync --gpus all after taking it out, or --gpus with those that remain.",
        command="bnbenv plan --driver 580",
    )


def mps(patient: Patient) -> Treatment:
    """CUDA's multi-process service is asked for and does not answer."""
    return told(
        "Start the MPS daemon again, or go without it.",
        "Without: unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY, then: echo quit | nvidia-cuda-mps-control",
        "It has to run as the user who uses it, with the same CUDA_MPS_PIPE_DIRECTORY.",
        command="nvidia-cuda-mps-control -d",
    )


def ecc(patient: Patient) -> Treatment:
    """The GPU's memory has errors."""
    return told(
        "Reset the GPU or reboot: rows of its memory with errors are retired then.",
        "How many? nvidia-smi -q -d ECC,PAGE_RETIREMENT,ROW_REMAPPER",
        "If 'Remapping Failure Occurred' says yes, the card has to be replaced.",
        command="sudo nvidia-smi --gpu-reset",
    )


def fabric(patient: Patient) -> Treatment:
    """Error 802 on machines with NVSwitch."""
    return told(
        "Start the fabric manager, in the driver's very version: with NVSwitch no GPU works without it.",
        "Install it if it is missing: sudo apt-get install "
        "nvidia-fabricmanager-BRANCH (nvidia-smi names the driver's branch).",
        "Did it start? systemctl status nvidia-fabricmanager; nvidia-smi -q | grep -A2 Fabric",
        command="sudo systemctl enable --now nvidia-fabricmanager",
    )


def jetson(patient: Patient) -> Treatment:
    """Jetson with L4T: server wheels do not run there."""
    if patient.foreign and patient.chosen.build is not None:
        return compiled(patient)
    return told(
        "On Jetson keep NVIDIA's torch and compile bitsandbytes on the device: the published wheels are for servers.",
        "bnbenv build does that for this GPU and this torch; JetPack brings the CUDA toolkit that it needs.",
        "Then install the wheel that it names beside that torch: pip install --no-deps WHEEL",
        "JetPack 7 (Thor) is of the server kind: there the wheels work.",
        command="bnbenv build",
    )


def compute(patient: Patient) -> Treatment:
    """A container with nvidia-smi and without libcuda."""
    return told(
        "Start the container with CUDA: NVIDIA_DRIVER_CAPABILITIES has to name compute.",
        "In a Dockerfile: ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility",
        command="docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute,utility IMAGE",
    )


def devices(patient: Patient) -> Treatment:
    """/dev/nvidia* are missing, or closed to this user."""
    return told(
        "Have the devices /dev/nvidia* made, and opened to this user.",
        "Who may use them? ls -l /dev/nvidia*; if a group (video, render): "
        "sudo usermod -aG video $USER, then log in again.",
        "Missing: sudo nvidia-modprobe -c=0 -u makes them; in a container --gpus all passes them in.",
        command="ls -l /dev/nvidia*",
    )


def compat(patient: Patient) -> Treatment:
    """A container's cuda-compat is in the driver's way."""
    return told(
        "Have the driver's own libcuda found: take /usr/local/cuda/compat out of LD_LIBRARY_PATH and of ld.so.conf.",
        "For one start: env -u LD_LIBRARY_PATH python ...",
        "In the image: rm /etc/ld.so.conf.d/*compat*; ldconfig. Or take an "
        "image whose CUDA is not newer than the driver.",
        command="unset LD_LIBRARY_PATH",
    )


def before_gpu(patient: Patient) -> Treatment:
    """The card is newer than the driver: no other torch helps."""
    gpus = patient.examination.facts.gpus if patient.examination else ()
    blackwell = any(gpu.capability >= (10, 0) for gpu in gpus)
    return told(
        "Upgrade the driver: this card is newer than it is.",
        "Blackwell (RTX 50, B200) needs 570 or newer." if blackwell else "",
        "Which driver a card needs first: bnbenv matrix show --gpu NAME",
        "Until then: bnbenv sync --gpus, with the cards that this driver knows.",
        command="sudo ubuntu-drivers install",
    )


def cpu_is_meant(patient: Patient) -> Treatment:
    """A CUDA build of torch on a machine without GPUs works on the CPU."""
    return told(
        "Nothing has to be done to run on the CPU; for a GPU, run on a machine that has one.",
        "A CPU build of torch is some GB smaller: bnbenv sync --backend cpu",
    )


Write = Callable[[Patient], Treatment]

BY_CODE: Mapping[str, Write] = {
    "container-without-gpus": container,
    "module-not-loaded": module,
    "driver-absent": absent,
    "driver-error": silent,
    "gpu-lost": lost,
    "driver-dropped-gpu": dropped,
    "uvm-missing": uvm,
    "wsl-linux-driver": wsl,
    "gpus-hidden": hidden,
    "jetson-wheel": jetson,
    "jetson-no-build": jetson,
    "invalid-device-ordinal": hidden,
    "mps-unreachable": mps,
    "ecc-error": ecc,
    "fabric-manager": fabric,
    "fabric-manager-missing": fabric,
    "gpu-off-the-bus": lost,
    "container-gpu-refused": container,
    "container-without-compute": compute,
    "devices-closed": devices,
    "cuda-compat-older": compat,
    "forward-compatibility": too_old,
    "wsl-not-searched": wsl,
    "driver-before-gpu": before_gpu,
    "cuda-torch-without-gpu": cpu_is_meant,
}
BY_CAUSE: Mapping[Cause, Write] = {
    "driver_library_mismatch": reboot,
    "driver_too_old": too_old,
    "no_gpu_visible": no_gpu,
}
