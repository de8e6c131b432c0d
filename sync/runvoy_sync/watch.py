"""Word of changes in the inbox. It only says when to look: what is there is found by looking, so a word that is lost (the
kernel's queue of them overflows) costs no more than the time to the next regular look."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from runvoy_sync.tell import Teller

_LOOKS = frozenset({"opened", "closed_no_write"})  # our own looks are no news


class Watch(FileSystemEventHandler):
    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._observer = Observer()

    def start(self, folder: Path, teller: Teller) -> None:
        try:
            self._observer.schedule(self, str(folder), recursive=False)
            self._observer.start()
        except OSError as error:  # no more watches may be had, say
            teller.say(
                f"changes of {folder} cannot be watched ({(error.strerror or str(error)).lower()}); "
                "it is looked at every few seconds"
            )

    def stop(self) -> None:
        if self._observer.is_alive():
            self._observer.stop()
            self._observer.join(2.0)

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type not in _LOOKS:
            self._wake()
