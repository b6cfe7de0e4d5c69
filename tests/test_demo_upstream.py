"""The demo provider: without Django, so that any ASGI server can run it."""

import subprocess
import sys


def test_the_demo_provider_needs_no_django():
    code = "import sys, proxy.demo_upstream; sys.exit('django' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
