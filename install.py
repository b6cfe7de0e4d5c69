"""Installs a file of requirements into this Python's environment: `.venv/bin/python install.py FILE`.

uv does it in seconds; pip, which every Python has, fetches uv and takes its place where it fails. Both check
the hash of every file. uv does not read pip's configuration, so it is handed what concerns the network.
"""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
UV = HERE / "requirements-uv.txt"
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
UNREACHABLE = re.compile(
    "NewConnectionError|ConnectTimeoutError|ReadTimeoutError|NameResolutionError|Connection refused"
    "|[Ff]ailed to establish a new connection|[Nn]ame resolution|Network is unreachable|ProxyError"
)


def main(file: str) -> int:
    problem = with_uv(file)
    if not problem:
        return 0
    print(f"uv can't install {file} ({problem}); pip does, which takes minutes.", file=sys.stderr)
    return with_pip(problem, "--require-hashes", "-r", file)


def with_uv(file: str) -> str:
    """Why it failed, in a few words; "" where it did not."""
    wanted = ("install", "--quiet", "--retries=1", "--require-hashes", "--only-binary=:all:", "-r", str(UV))
    fetched = subprocess.run([*PIP, *wanted], capture_output=True, text=True)
    if fetched.returncode:
        return f"pip could not fetch it: {last_line(fetched.stderr)}"
    arguments, environment = as_uv_takes_it(pip_settings(), dict(os.environ))
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", sys.executable]
    try:
        done = subprocess.run(
            [*command, "--require-hashes", "--compile-bytecode", *arguments, "-r", file],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
    except OSError as error:
        return str(error)
    return last_line(done.stderr) if done.returncode else ""


def with_pip(problem: str, *wanted: str) -> int:
    """`problem`: why uv failed. Where pip is told not to retry, it does not say that it reached nothing."""
    done = subprocess.run([*PIP, "install", "--quiet", *wanted], stderr=subprocess.PIPE, text=True)
    sys.stderr.write(done.stderr)
    told = done.stderr + (problem if "No matching distribution" in done.stderr else "")
    if done.returncode and UNREACHABLE.search(told):
        print(
            "No package index can be reached. Behind a proxy or with a mirror, tell pip of it: "
            "HTTPS_PROXY, PIP_INDEX_URL, PIP_CERT or pip's configuration file.",
            file=sys.stderr,
        )
    return done.returncode


def pip_settings() -> dict[str, str]:
    """What pip's files and PIP_ variables say; for `install` what is said for it, above all the variables."""
    listed = subprocess.run([*PIP, "config", "list"], capture_output=True, text=True).stdout
    found = dict(re.findall(r"^(\S+?)=('.*'|\".*\")$", listed, re.MULTILINE))
    settings: dict[str, str] = {}
    for section in ("global", "install", ":env:"):
        for name, value in found.items():
            if name.startswith(f"{section}."):
                settings[name.removeprefix(f"{section}.").replace("_", "-")] = str(ast.literal_eval(value))
    return settings


def as_uv_takes_it(pip: dict[str, str], environment: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment for uv. What its own variables say goes before what pip's do."""
    # pip takes the best of all indexes; the hashes say that it is the right one.
    arguments = ["--index-strategy=unsafe-best-match"]
    if "index-url" in pip and "UV_DEFAULT_INDEX" not in environment:
        arguments.append(f"--default-index={pip['index-url']}")
    arguments += [f"--index={url}" for url in pip.get("extra-index-url", "").split()]
    arguments += [f"--find-links={place}" for place in pip.get("find-links", "").split()]
    arguments += [f"--allow-insecure-host={host}" for host in pip.get("trusted-host", "").split()]
    if pip.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        arguments.append("--no-index")
    given = {
        "SSL_CERT_FILE": pip.get("cert"),
        "SSL_CLIENT_CERT": pip.get("client-cert"),
        "HTTPS_PROXY": pip.get("proxy"),
        "HTTP_PROXY": pip.get("proxy"),
        "UV_HTTP_TIMEOUT": pip.get("timeout") or pip.get("default-timeout"),
        "UV_KEYRING_PROVIDER": pip.get("keyring-provider")
        if pip.get("keyring-provider") == "subprocess"
        else None,
    }
    return arguments, environment | {name: value for name, value in given.items() if value}


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("[notice]")]
    return lines[-1] if lines else "it said nothing"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
