"""`runvoy completion`: a shell's completion script."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from runvoy_cli.input.options import new_app
from runvoy_cli.terminal.render import print_json, print_line

app = new_app()

# The other half of this is in runvoy_cli.completion, and for fish it is Typer's: with _RUNVOY_COMPLETE in the environment runvoy
# prints the candidates.
_BASH = """\
_runvoy_completion() {
    local IFS=$'\\n'
    # $2 is what bash replaces: of a word with =, : or @ in it what stands behind the last of these.
    COMPREPLY=( $( env _RUNVOY_COMPLETE=complete_bash _RUNVOY_LINE="${COMP_LINE:0:COMP_POINT}" _RUNVOY_WORD="$2" \\
        "$1" 2>/dev/null ) )
    [[ ${#COMPREPLY[@]} -gt 0 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null
    return 0
}
complete -o default -o nosort -F _runvoy_completion runvoy 2>/dev/null ||
    complete -o default -F _runvoy_completion runvoy"""
_ZSH = """\
#compdef runvoy
_runvoy_completion() {
    local one
    local -a whole begun
    for one in "${(@f)$(env _RUNVOY_COMPLETE=complete_zsh _RUNVOY_LINE="${words[1,$CURRENT]}" "${words[1]}" 2>/dev/null)}"; do
        [[ -z $one ]] && continue
        if [[ ${one%%:*} == *= ]]; then begun+=("$one"); else whole+=("$one"); fi
    done
    if (( $#whole + $#begun == 0 )); then
        _files
        return
    fi
    (( $#whole )) && _describe -V runvoy whole
    (( $#begun )) && _describe -V runvoy begun -S ''
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
