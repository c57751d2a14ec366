"""The command that lets a shell complete the others: completion.

    eval "$(pilotfish completion bash)"         in ~/.bashrc
    eval "$(pilotfish completion zsh)"          in ~/.zshrc, after compinit
    pilotfish completion fish | source          in ~/.config/fish/config.fish

Names of commands, tasks, algorithms and figures and the flags are written into what it prints: completing itself starts
no Python. It imports no jax.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import tyro

from pilotfish import manual, registry
from pilotfish.cli import COMMANDS, MODULES
from pilotfish.cli.catalogue import FURTHER
from pilotfish.experiments import TITLES

BASH = """_pilotfish() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} known=
  COMPREPLY=()
  if [ "$before" = --algorithm ]; then known="{algorithms}"
  elif [ "$COMP_CWORD" = 1 ]; then known="{commands} help"
  else
    case "${{COMP_WORDS[1]}}:$word" in
{flags}
    esac
    if [ "$COMP_CWORD" = 2 ]; then
      case "${{COMP_WORDS[1]}}" in
        train|list|sweep) known="$known {tasks}" ;;
        figure) known="$known {figures}" ;;
        help) known="{commands}" ;;
        completion) known="bash zsh fish" ;;
      esac
    fi
  fi
  COMPREPLY=($(compgen -W "$known" -- "$word"))
}}
complete -o default -F _pilotfish pilotfish
"""
ZSH = "autoload -U +X bashcompinit && bashcompinit\n"
"""By which zsh understands the same."""


@dataclasses.dataclass
class _Completion:
    shell: tyro.conf.Positional[Literal["bash", "zsh", "fish"]]
    """For bash and zsh: `eval "$(pilotfish completion bash)"` in ~/.bashrc or ~/.zshrc; for fish: `pilotfish completion
    fish | source` in ~/.config/fish/config.fish."""


def completion(argv: list[str]) -> None:
    """Print what a shell completes commands by."""
    args = tyro.cli(_Completion, args=argv, prog="pilotfish completion", description=COMMANDS["completion"])
    print(_fish() if args.shell == "fish" else (ZSH * (args.shell == "zsh")) + _bash(), end="")


def flags(command: str) -> list[str]:
    """The flags of a command, in the order of its fields."""
    path = Path(__file__).with_name(f"{MODULES[command]}.py")
    found = manual.fields(path, f"_{command.capitalize()}").items()
    plain = [
        (name.replace("_", "-"), field) for name, field in found if "Positional" not in field.kind and name != "task"
    ]
    own = [f"--no-{name}" if field.default == "True" else f"--{name}" for name, field in plain]
    return [*own, "--help", *(flag for flag in FURTHER if command == "train" and flag not in own)]


def _bash() -> str:
    rows = [f'      {name}:-*) known="{" ".join(flags(name))}" ;;' for name in COMMANDS]
    words: dict[str, Iterable[str]] = {
        "commands": COMMANDS,
        "tasks": registry.tasks(),
        "algorithms": registry.algorithms(),
        "figures": TITLES,
    }
    return BASH.format(flags="\n".join(rows), **{name: " ".join(known) for name, known in words.items()})


def _fish() -> str:
    rows = [
        f"complete -c pilotfish -n __fish_use_subcommand -f -a {name} -d {_quoted(COMMANDS[name])}" for name in COMMANDS
    ]
    for commands, known in (("train list sweep", registry.tasks()), ("figure", TITLES), ("help", COMMANDS)):
        rows.append(f"complete -c pilotfish -n '__fish_seen_subcommand_from {commands}' -a '{' '.join(known)}'")
    rows += [
        f"complete -c pilotfish -n '__fish_seen_subcommand_from {name}' -l {flag[2:]}"
        + (f" -x -a '{' '.join(registry.algorithms())}'" if flag == "--algorithm" else "")
        for name in COMMANDS
        for flag in flags(name)
    ]
    return "\n".join(rows) + "\n"


def _quoted(words: str) -> str:
    return "'" + words.replace("'", "\\'") + "'"
