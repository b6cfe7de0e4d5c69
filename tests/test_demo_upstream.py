"""The demo provider runs in a process of its own, without Django."""

import subprocess
import sys


def test_the_demo_provider_needs_no_django():
    code = "import sys, proxy.demo_upstream; sys.exit('django' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
