"""Runs the conformance cases in stock wasmtime. Every call is a separate process with the same
directory.

Usage: python runner.py WASMTIME COMPONENTS CASES
  WASMTIME    the program
  COMPONENTS  the directory of optoken-cli.wasm
  CASES       the directory of the cases

tests/conformance/README.md defines the output of a runner.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

Argument = dict[str, Any] | list[str] | str | int | None

# The command of each function of the contract. Each further word stands for an argument of the
# function, in order: CALLER is the record of credential and origin, STDIN a token, ORIGIN the
# origin, NAME a positional argument, and ACCESS the record of a request. An --option without a
# value is omitted, and stands once for each element of a list.
COMMANDS = {
    "authenticator.load": ("check",),
    "authenticator.state": ("state",),
    "authenticator.describe": ("describe", "STDIN"),
    "authenticator.authenticate": ("authenticate", "STDIN"),
    "authenticator.authorize": ("authorize", "STDIN", "ACCESS"),
    "tokens.create-operator": ("create", "ORIGIN"),
    "tokens.create-named": ("create", "CALLER", "--name", "--permission", "--lifetime"),
    "tokens.regenerate": ("regenerate", "CALLER", "--overlap"),
    "tokens.stage": ("stage", "CALLER", "--sha512", "--ttl"),
    "tokens.confirm": ("confirm", "CALLER", "--overlap"),
    "tokens.cancel": ("cancel", "CALLER"),
    "tokens.end-overlap": ("end-overlap", "CALLER"),
    "tokens.status": ("status",),
    "tokens.delete": ("delete", "CALLER", "NAME"),
    "tokens.audit": ("audit", "--after"),
    "tokens.list-tokens": ("list",),
    "recovery.regenerate": ("recover", "ORIGIN", "--reason"),
    "provision.initialize": ("initialize", "ORIGIN"),
    "provision.hash-token": ("hash", "STDIN"),
    "provision.import-hash": (
        "import",
        "--name",
        "--sha512",
        "--permission",
        "--description",
        "--expiry",
        "ORIGIN",
    ),
    "provision.replace-operator": ("replace", "--current", "--sha512", "--overlap", "ORIGIN"),
}


def command_line(call: str, arguments: list[Argument]) -> tuple[list[str], bytes]:
    """Returns the arguments after the component, and the data for standard input."""
    command, *parameters = COMMANDS[call]
    before, behind, stdin = ["--json"], [command], b""
    for parameter, argument in zip(parameters, arguments, strict=True):
        match parameter:
            case "CALLER":
                assert isinstance(argument, dict) and set(argument) == {"credential", "origin"}
                stdin = f"{argument['credential']}\n".encode()
                before += ["--origin", argument["origin"]]
            case "STDIN":
                # The command strips one newline, so an empty token differs from a missing one.
                stdin = f"{argument}\n".encode()
            case "ORIGIN":
                before += ["--origin", str(argument)]
            case "ACCESS":
                behind += access_options(argument)
            case "NAME":
                behind += ["--", str(argument)]
            case _ if isinstance(argument, list):
                # The command line has no empty list.
                assert argument
                behind += [f"{parameter}={element}" for element in argument]
            case _ if argument is not None:
                behind += [f"{parameter}={argument}"]
    return before + behind, stdin


def access_options(access: Argument) -> list[str]:
    """Returns the options of a request."""
    assert isinstance(access, dict) and set(access) == {"method", "host", "path", "query", "target"}
    match access["target"]:
        case {"database": {"name": name, "action": action}}:
            target = f"db:{name}:{action}"
        case {"system": name}:
            target = f"system:{name}"
        case name:
            target = name
    options = {**access, "target": target}
    return [f"--{name}={value}" for name, value in options.items() if value is not None]


def resolve(argument: Argument, answered: dict[str, Any]) -> Argument:
    """Returns the argument, or the value that a reference `<NAME.FIELD>` names."""
    if isinstance(argument, list):
        return argument
    if isinstance(argument, dict):
        return {name: resolve(field, answered) for name, field in argument.items()}
    reference = re.fullmatch(r"<([\w-]+)\.([\w-]+)>", argument) if isinstance(argument, str) else None
    return answered[reference[1]][reference[2]] if reference else argument


def run_case(cli: list[str], case: Path) -> dict[str, Any]:
    """Returns the results of a case. `cli` is the command without its directory."""
    results: list[Any] = []
    answered: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as data:
        catalog = Path(data, "catalog")
        if (before := case / "before.jsonl").exists():
            catalog.mkdir()
            (catalog / "1.jsonl").write_bytes(before.read_bytes())
        for call in json.loads((case / "calls.json").read_text()):
            arguments = [resolve(argument, answered) for argument in call["args"]]
            words, stdin = command_line(call["call"], arguments)
            directory = ["--dir", f"{data}::/data"]
            process = subprocess.run([*cli[:-1], *directory, cli[-1], *words], input=stdin, capture_output=True)
            if not process.stdout:
                sys.exit(f"{case.name}: {call['call']} prints nothing: {process.stderr.decode()}")
            result = json.loads(process.stdout)
            if (process.returncode == 0) != ("ok" in result):
                sys.exit(f"{case.name}: {call['call']} exits with {process.returncode} and prints {result}")
            results.append(result)
            if "as" in call:
                answered[call["as"]] = result.get("ok")
        document = max(catalog.glob("*.jsonl"), key=lambda file: int(file.stem), default=None)
        text = document and document.read_bytes().decode()
    return {"case": case.name, "answers": results, "document": text}


def main() -> None:
    wasmtime, components, cases = sys.argv[1:]
    with tempfile.TemporaryDirectory() as compiled:
        # Compiled once for all calls.
        cwasm = str(Path(compiled, "optoken-cli.cwasm"))
        subprocess.run([wasmtime, "compile", "-o", cwasm, f"{components}/optoken-cli.wasm"], check=True)
        cli = [wasmtime, "run", "--allow-precompiled", cwasm]
        for case in sorted(Path(cases).iterdir()):
            print(json.dumps(run_case(cli, case), ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
