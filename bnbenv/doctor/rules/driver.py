"""The driver, and what keeps it from the GPUs."""

from __future__ import annotations

from bnbenv.doctor.model import Verdict
from bnbenv.doctor.rules.case import NO, Case, Rule, yes


def _reboot(case: Case) -> Verdict:
    driver = case.examination.facts.driver
    if driver.state != "mismatch":
        return NO
    module, library = driver.kernel_module or "of unknown version", driver.userland or "of unknown version"
    return yes(f"the kernel module is {module}, the driver library is {library}")


DRIVER = (Rule("driver-reboot", _reboot),)
