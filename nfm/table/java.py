"""Find a Java installation for Spark."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from nfm.contract.errors import NfmError

_OLDEST = 17
_VERSION = re.compile(r'version "(\d+)')
_SYSTEM = Path("/usr/lib/jvm")  # where Debian installs Java


def java_home(environment: Mapping[str, str] = os.environ, system: Path = _SYSTEM) -> Path:
    """Return the home of the first Java 17 or newer in JAVA_HOME, on the PATH, or else in `system`.

    Raises NfmError, with the package to install, if there is none.
    """
    rejected = []
    for origin, java in _candidates(environment, system):
        version = _version(java)
        if version >= _OLDEST:
            return java.resolve().parent.parent
        rejected.append(f"{origin} has {f'Java {version}' if version else 'a Java that does not run'}")
    if environment.get("JAVA_HOME") and not any(reason.startswith("JAVA_HOME") for reason in rejected):
        rejected.insert(0, f"JAVA_HOME is {environment['JAVA_HOME']}, which has no bin/java")
    raise NfmError(
        f"Spark needs Java {_OLDEST} or newer, but {'; '.join(rejected) or 'there is none on the PATH'}. Install it "
        f"(Debian: apt-get install openjdk-{_OLDEST}-jre-headless), or set JAVA_HOME."
    )


def _candidates(environment: Mapping[str, str], system: Path) -> Iterator[tuple[str, Path]]:
    if home := shutil.which(f"{environment.get('JAVA_HOME') or '/nowhere'}/bin/java"):
        yield f"JAVA_HOME ({environment['JAVA_HOME']})", Path(home)
    if on_path := shutil.which("java", path=environment.get("PATH", "")):
        yield f"the PATH ({on_path})", Path(on_path)
    for version in (17, 21):
        for java in sorted(system.glob(f"java-{version}-openjdk-*/bin/java")):
            yield str(java), java


def _version(java: Path) -> int:
    """Return the major version, or 0 if the program does not run."""
    try:
        done = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)  # noqa: S603
    except OSError:
        return 0
    found = _VERSION.search(done.stderr + done.stdout)
    return int(found.group(1)) if found else 0
