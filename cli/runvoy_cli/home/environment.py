"""The environment variables of the command line and of commands, for people to read: docs/reference.md is made of them.

A test holds the tables against the names that the program's text has.
"""

from __future__ import annotations

from runvoy_cli.home.config import HOME_VARIABLE, PROFILE_VARIABLE, VARIABLES

READ = {
    VARIABLES["endpoint"]: "The deployment's address, `https://…`. Wins over the config file.",
    VARIABLES["deployment_id"]: "The deployment's id. Wins over the config file.",
    VARIABLES["api_key"]: "The API key. Wins over the config file.",
    PROFILE_VARIABLE: "The profile of the config file to use; `--profile` is stronger.",
    HOME_VARIABLE: "The folder of all that runvoy keeps on this machine, the embedded stack's state included. Without it `~/.runvoy`.",
    "RUNVOY_USER_NAME": "For any NAME: becomes the variable NAME of the command of `run` and `submit`; `--env` is stronger.",
    "RUNVOY_CONTAINER_ENGINE": "The container engine of the embedded stack, a name or a path, when the stack starts. Without it docker, else podman.",
    "NO_COLOR": "Not empty: no colours of runvoy's own.",
    "TERM": "`dumb`: no colours and no live rows.",
    "GITHUB_ACTIONS": "`true`: groups and annotations for GitHub Actions.",
    "GITHUB_STEP_SUMMARY": "The file of a job's summary, in GitHub Actions.",
}
GIVEN = {
    "RUNVOY_EXECUTION_ID": "The execution's id.",
    "RUNVOY_LOCK_FENCE": "With locks: the fence of the first one, higher than that of any holder before.",
    "RUNVOY_LOCK_FENCES": "With locks: the fence of each, as `name=fence` with spaces between.",
    "RUNVOY_GIT_COMMIT": "The full SHA of the commit that was checked out. Only with `--git-repo`.",
}
