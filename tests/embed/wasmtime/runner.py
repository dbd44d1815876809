"""Plays the conformance cases under stock wasmtime: every call is a process of its own, over one directory.

Usage: python runner.py WASMTIME COMPONENTS CASES
  WASMTIME    the program
  COMPONENTS  the directory with optoken-cli.wasm
  CASES       the directory with the cases

What a runner is and writes, tests/conformance/README.md says.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

Argument = str | int | None

# How a function of the contract is asked for on the command line. Each word is one for an argument of the function, in
# its order: STDIN is the credential, ORIGIN the origin, --option is left out where there is no value, NAME stands alone.
COMMANDS = {
    "authenticator.prepare": ("check",),
    "authenticator.authenticate": ("authenticate", "STDIN"),
    "tokens.create-operator": ("create", "ORIGIN"),
    "tokens.create-named": ("create", "STDIN", "--name", "--lifetime", "ORIGIN"),
    "tokens.regenerate": ("regenerate", "STDIN", "--overlap", "ORIGIN"),
    "tokens.stage": ("stage", "STDIN", "--sha512", "--ttl", "ORIGIN"),
    "tokens.confirm": ("confirm", "STDIN", "--overlap", "ORIGIN"),
    "tokens.cancel": ("cancel", "STDIN", "ORIGIN"),
    "tokens.end-overlap": ("end-overlap", "STDIN", "ORIGIN"),
    "tokens.status": ("status",),
    "tokens.delete": ("delete", "STDIN", "NAME", "ORIGIN"),
    "tokens.audit": ("audit",),
    "tokens.list": ("list",),
    "recovery.regenerate": ("recover", "ORIGIN"),
    "provision.initialize": ("initialize", "ORIGIN"),
    "provision.preset-token": ("preset", "--name", "STDIN", "--expiry", "ORIGIN"),
    "provision.preset-hash": ("preset", "--name", "--sha512", "--expiry", "ORIGIN"),
}


def command_line(call: str, arguments: list[Argument]) -> tuple[list[str], bytes]:
    """What stands behind the component on the command line, and what is written to standard input."""
    command, *parameters = COMMANDS[call]
    before, behind, stdin = ["--json"], [command], b""
    for parameter, argument in zip(parameters, arguments, strict=True):
        match parameter:
            case "STDIN":
                # One newline is taken away again, so that an empty token is told from none.
                stdin = f"{argument}\n".encode()
            case "ORIGIN":
                before += ["--origin", str(argument)]
            case "NAME":
                behind += ["--", str(argument)]
            case _ if argument is not None:
                behind += [f"{parameter}={argument}"]
    return before + behind, stdin


def resolved(argument: Argument, answered: dict[str, Any]) -> Argument:
    """The argument, or what `<NAME.FIELD>` stands for."""
    reference = re.fullmatch(r"<([\w-]+)\.([\w-]+)>", argument) if isinstance(argument, str) else None
    return answered[reference[1]][reference[2]] if reference else argument


def play(cli: list[str], case: Path) -> dict[str, Any]:
    """The line of one case; `cli` runs the command, and lacks the directory."""
    answers: list[Any] = []
    answered: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as data:
        catalog = Path(data, "catalog")
        if (before := case / "before.jsonl").exists():
            catalog.mkdir()
            (catalog / "1.jsonl").write_bytes(before.read_bytes())
        for call in json.loads((case / "calls.json").read_text()):
            arguments = [resolved(argument, answered) for argument in call["args"]]
            words, stdin = command_line(call["call"], arguments)
            directory = ["--dir", f"{data}::/data"]
            ran = subprocess.run([*cli[:-1], *directory, cli[-1], *words], input=stdin, capture_output=True)
            if not ran.stdout:
                sys.exit(f"{case.name}: {call['call']} answers nothing: {ran.stderr.decode()}")
            answer = json.loads(ran.stdout)
            if (ran.returncode == 0) != ("ok" in answer):
                sys.exit(f"{case.name}: {call['call']} ends with {ran.returncode} and answers {answer}")
            answers.append(answer)
            if "as" in call:
                answered[call["as"]] = answer.get("ok")
        document = max(catalog.glob("*.jsonl"), key=lambda file: int(file.stem), default=None)
        text = document and document.read_bytes().decode()
    return {"case": case.name, "answers": answers, "document": text}


def main() -> None:
    wasmtime, components, cases = sys.argv[1:]
    with tempfile.TemporaryDirectory() as compiled:
        # Once, and not for every call.
        cwasm = str(Path(compiled, "optoken-cli.cwasm"))
        subprocess.run([wasmtime, "compile", "-o", cwasm, f"{components}/optoken-cli.wasm"], check=True)
        cli = [wasmtime, "run", "--allow-precompiled", cwasm]
        for case in sorted(Path(cases).iterdir()):
            print(json.dumps(play(cli, case), ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
