"""The life of `runvoy sync`: what runs beside what, and how it ends."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

from runvoy_cli.deployment.session import Session
from runvoy_cli.following.readers import StdoutReader
from runvoy_cli.input.problems import EXIT_BROKEN_PIPE, EXIT_INTERRUPTED, ReaderGone, UsageProblem
from runvoy_cli.terminal.screen import Live
from runvoy_protocol import codec
from runvoy_protocol.errors import RunvoyError
from runvoy_protocol.exit_codes import EXIT_GAVE_UP
from runvoy_sync.inbox import FOLDER as INBOX
from runvoy_sync.inbox import Inbox
from runvoy_sync.libc import keep_freed
from runvoy_sync.listing import Listing
from runvoy_sync.mirror import Mirror
from runvoy_sync.outcomes import Outcomes
from runvoy_sync.settings import SyncSettings
from runvoy_sync.submission import Submission
from runvoy_sync.tell import Teller
from runvoy_sync.tree import Tree

if TYPE_CHECKING:  # loaded when they are needed: that takes a tenth of what a `--once` without news does
    from runvoy_sync.commits import Commits
    from runvoy_sync.watch import Watch

RESCAN_SECONDS = 5.0
_SHORTEST_SCAN_SECONDS = 0.2
_SETTLING_SECONDS = 0.25  # while something in the inbox waits to stand still
_STOP_SECONDS = 5.0
_UNSAID_SECONDS = 0.5  # of these, before people are told why it takes so long
_PATIENCE_SECONDS = 60.0  # with a deployment that cannot be reached, for `--once`


def run(settings: SyncSettings, session: Session) -> int:
    """Keep a folder until a signal comes, or with `once` until all is done; the exit code."""
    if os.name != "posix":
        raise UsageProblem("`runvoy sync` runs on Linux and macOS only")
    folder = settings.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tree = Tree(folder.resolve())
    except (NotADirectoryError, FileExistsError) as error:
        raise UsageProblem(f"{folder} is no folder") from error
    daemon: _Daemon | None = None
    try:
        codec.work_out_types()
        keep_freed()
        daemon = _Daemon(settings, session, tree)
        code = daemon.run()
    finally:
        if daemon is None or daemon.is_over:
            tree.close()
    if not daemon.is_over:
        # Somebody still waits for an answer. The interpreter cannot be taken down around a thread within a C library, and what
        # that thread is at is no more than what a kill would cut off.
        sys.stderr.flush()
        os._exit(code)
    return code


class _Daemon:
    def __init__(self, settings: SyncSettings, session: Session, tree: Tree) -> None:
        self._settings = settings
        self._session = session
        self._tree = tree
        self._teller = Teller(session.console, session.client.now, settings.as_json)
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._signal: int | None = None
        self.is_over = True  # no thread is left that could touch the tree
        self._troubled_since: float | None = None
        self._outcomes = Outcomes()
        self._mirror = Mirror(tree, session.client, self._teller, self._on_end)
        self._submission = Submission(tree, self._mirror.watch)
        self._inbox = Inbox(tree, session, self._submission, self._teller, self._on_decided, wake=self._wake)
        self._listing = Listing(
            tree, session.client.sibling(), self._mirror, self._teller, settings.query, on_swept=self._wake
        )
        self._commits: Commits | None = None
        if settings.git_pull_seconds is not None:
            from runvoy_sync.commits import Commits

            self._commits = Commits(
                tree, session, self._submission, self._teller, self._on_decided, settings.git_pull_seconds
            )

    def run(self) -> int:
        with self._signals():
            self._tree.lock()
            os.chdir(self._tree.root)  # playbooks are those of the folder and of the project it lies in
            self._prepare()
            return self._work()

    def _prepare(self) -> None:
        self._check_deployment()
        if self._commits is not None:
            self._commits.prepare()
            self._inbox.skip = self._commits.tracked

    def _work(self) -> int:
        watch: Watch | None = None
        with Live(self._session.console.screen, self._teller.rows):
            self._mirror.start()
            self._inbox.start()
            if not self._settings.once:  # which looks again and again anyway
                from runvoy_sync.watch import Watch

                watch = Watch(self._wake)
                watch.start(self._tree.root / INBOX, self._teller)
            self._listing.start()
            if self._commits is not None:
                self._commits.start()
            self._session.console.remark(f"keeping {self._tree.root}; Ctrl-C ends it, and what runs goes on")
            try:
                # Events are all that is written: who reads them no more has the daemon end.
                with StdoutReader(is_wanted=self._settings.as_json):
                    return self._once() if self._settings.once else self._keep()
            except ReaderGone:
                return EXIT_BROKEN_PIPE
            finally:
                if watch is not None:
                    watch.stop()
                self._stop()
                self._teller.caught_up(is_whole=self._has_all())

    def _check_deployment(self) -> None:
        found = self._listing.load()
        deployment_id = self._session.client.target.deployment_id
        if found is not None and found != deployment_id:
            raise UsageProblem(
                f"{self._tree.root} is a folder of the deployment {found}, and this is {deployment_id}",
                "Give every deployment a folder of its own.",
            )

    def _keep(self) -> int:
        has_recovered = False
        while self._signal is None:
            has_recovered = has_recovered or self._recover()
            self._look_and_wait()
        return EXIT_INTERRUPTED if self._signal == signal.SIGINT else 0

    def _once(self) -> int:
        """Until everything that lay in the inbox is submitted, has ended and is copied, and what else there is as well."""
        limit = self._settings.give_up_seconds
        deadline = None if limit is None else time.monotonic() + limit
        has_recovered = False
        mark = 0  # the first sweep finds all that there was when this began
        had_requests = False
        while self._signal is None:
            has_recovered = has_recovered or self._recover()
            is_left = self._look_and_wait()
            self._raise_trouble()
            if deadline is not None and time.monotonic() >= deadline:
                self._teller.say("gave up waiting; what runs goes on")
                return EXIT_GAVE_UP
            if is_left or not has_recovered or not (self._commits is None or self._commits.is_clear.is_set()):
                had_requests = True
                continue
            if had_requests:
                had_requests = False
                mark = self._listing.sweep_now()
            if self._listing.has_swept_since(mark) and self._mirror.pending() == 0 and self._outcomes.are_all_known():
                return self._outcomes.exit_code()
        return EXIT_INTERRUPTED

    def _recover(self) -> bool:
        try:
            self._inbox.recover(self._session)
        except (RunvoyError, OSError) as error:
            self._inbox.trouble = error
            self._teller.trouble("going on from where an earlier daemon was", error)
            return False
        return True

    def _look_and_wait(self) -> bool:
        """One look at the inbox, then sleep until there is reason for the next; whether anything is in it."""
        if self._commits is not None:
            self._inbox.skip = self._commits.tracked
        if self._has_all():
            self._teller.caught_up()
        began = time.monotonic()
        is_left = True
        try:
            is_left = self._inbox.scan()
            self._teller.fine("looking at the inbox")
        except OSError as error:
            self._teller.trouble("looking at the inbox", error)
        # A fifth of the time at most is spent on looking, however much lies there. Who only waits for ends is woken by each.
        is_only_waiting = self._settings.once and not is_left
        pause = max(0.0 if is_only_waiting else _SHORTEST_SCAN_SECONDS, 4 * (time.monotonic() - began))
        self._sleep(pause, is_wakeable=False)
        rest = _SETTLING_SECONDS if is_left or self._settings.once else RESCAN_SECONDS
        self._sleep(max(0.0, rest - pause), is_wakeable=True)
        return is_left

    def _has_all(self) -> bool:
        """Whether all that there was is copied."""
        return self._listing.has_swept_since(0) and self._mirror.pending() == 0

    def _sleep(self, seconds: float, *, is_wakeable: bool) -> None:
        deadline = time.monotonic() + seconds
        while self._signal is None and (left := deadline - time.monotonic()) > 0:
            if not is_wakeable:
                time.sleep(min(left, _SHORTEST_SCAN_SECONDS))
            elif select.select([self._wake_read], [], [], left)[0]:
                with contextlib.suppress(BlockingIOError):
                    while os.read(self._wake_read, 4096):
                        pass
                return

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full: it is awake
            os.write(self._wake_write, b"\0")

    def _on_decided(self, name: str, execution_id: str | None, exit_code: int) -> None:
        if execution_id is not None and self._settings.as_json and self._mirror.is_complete(execution_id):
            self._tell_of_its_end(execution_id)
        if not self._settings.once:
            return
        if execution_id is None:
            self._outcomes.ended_without(name, exit_code)
        elif self._outcomes.began(name, execution_id) and self._mirror.is_complete(execution_id):
            self._on_end(execution_id, self._mirror.exit_code_of(execution_id))

    def _tell_of_its_end(self, execution_id: str) -> None:
        """A file may stand for an execution that was copied long ago: whoever waits for its end is to hear of it, too."""
        try:
            self._teller.ended_before(self._mirror.result_of(execution_id))
        except (RunvoyError, OSError) as error:
            self._teller.trouble("copying", error)

    # -- for `--once`

    def _on_end(self, execution_id: str, exit_code: int) -> None:
        if self._settings.once:
            self._outcomes.ended(execution_id, exit_code)
            self._wake()

    def _raise_trouble(self) -> None:
        """What cannot be got over ends a `--once`, and what lasts too long."""
        commits_trouble = self._commits.trouble if self._commits is not None else None
        error = self._inbox.trouble or self._listing.trouble or commits_trouble
        if error is None:
            self._troubled_since = None
            return
        self._troubled_since = self._troubled_since or time.monotonic()
        is_passing = not isinstance(error, RunvoyError) or error.retryable
        if not is_passing or time.monotonic() - self._troubled_since > _PATIENCE_SECONDS:
            raise error

    # -- the end

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def note(number: int, _frame: FrameType | None) -> None:
            self._signal = number
            self._wake()

        def ignore(_number: int, _frame: FrameType | None) -> None:
            """Of SIGIO, whose own way is to end the process: see Tree.is_being_written."""

        # Not those that whoever started it has it ignore, as `nohup` and a script's `&` do.
        handlers: dict[signal.Signals, Callable[[int, FrameType | None], None]] = {
            number: note
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        if sys.platform != "win32":
            handlers[signal.SIGIO] = ignore
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self) -> None:
        """Let everybody finish what they are at. Whoever takes too long is left: nothing is half done that a restart would not
        complete."""
        threads: list[threading.Thread] = [self._listing, *self._inbox.workers, *self._mirror.threads]
        self._listing.stop()
        if self._commits is not None:
            self._commits.stop()
            threads.append(self._commits)
        self._inbox.stop()
        self._mirror.stop()
        self.is_over = _have_ended(threads, _UNSAID_SECONDS)
        if not self.is_over:
            self._session.console.remark("ending; what is being copied is finished first, for a few seconds at most")
            self.is_over = _have_ended(threads, _STOP_SECONDS - _UNSAID_SECONDS)


def _have_ended(threads: Iterable[threading.Thread], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    for thread in threads:
        if thread.ident is not None:
            thread.join(max(0.0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)
