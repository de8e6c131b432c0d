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
    local IFS=$'\\n' words=("${COMP_WORDS[0]}") last=0 piece
    for piece in "${COMP_WORDS[@]:1:$COMP_CWORD}"; do
        # bash takes `=` for a word of its own: what belongs together is put together again.
        if [[ $piece == = || ${words[last]} == *?= ]]; then
            words[last]+=$piece
        else
            last=$((last + 1)) && words[last]=$piece
        fi
    done
    COMPREPLY=( $( env COMP_WORDS="${words[*]}" COMP_CWORD=$last _RUNVOY_COMPLETE=complete_bash "$1" ) )
    [[ ${words[last]} == *=* ]] && COMPREPLY=( "${COMPREPLY[@]#*=}" )
    [[ ${COMPREPLY[0]-} == *= ]] && compopt -o nospace 2>/dev/null
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
