"""`runvoy completion`: a shell's completion script."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from runvoy_cli.options import new_app
from runvoy_cli.render import print_json, print_line

app = new_app()

# The other half of this protocol is Typer's: with _RUNVOY_COMPLETE in the environment it prints the candidates.
_BASH = """\
_runvoy_completion() {
    local IFS=$'\\n'
    COMPREPLY=( $( env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD _RUNVOY_COMPLETE=complete_bash "$1" ) )
    return 0
}
complete -o default -F _runvoy_completion runvoy"""
_ZSH = """\
#compdef runvoy
_runvoy_completion() {
    eval $(env _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _RUNVOY_COMPLETE=complete_zsh runvoy)
}
compdef _runvoy_completion runvoy"""
_FISH_CALL = "env _RUNVOY_COMPLETE=complete_fish _TYPER_COMPLETE_ARGS=(commandline -cp) _TYPER_COMPLETE_FISH_ACTION="
_FISH = (
    f'complete --command runvoy --no-files --arguments "({_FISH_CALL}get-args runvoy)" '
    f'--condition "{_FISH_CALL}is-args runvoy"'
)


@app.command(epilog="Example: runvoy completion bash > ~/.local/share/bash-completion/completions/runvoy")
def completion(
    context: typer.Context,
    shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(help="The shell to print it for.")],
) -> None:
    """Print a shell's completion script; load it with `source <(runvoy completion bash)`, or store it."""
    script = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}[shell]
    if context.obj.json:
        print_json({"shell": shell, "script": script})
    else:
        print_line(script)
