// Which key does what in the log. controls.js lists them for readers.

const SIDE_PX = 80;

/** From keys to what they do. `view` has the actions, and the scroller that moves. */
export function keyActions({ scroller, move, error, follow, pause, toggle, markTop, markMore, copy, link, help, search, end, escape }) {
  const line = (step) => () => scroller.by(step * scroller.rowHeight);
  const page = (step) => () => scroller.by(step * scroller.page * scroller.rowHeight);
  const start = () => scroller.toStart();
  const side = (step) => () => scroller.element.scrollBy(step * SIDE_PX, 0);
  return {
    j: line(1), ArrowDown: line(1), k: line(-1), ArrowUp: line(-1),
    PageDown: page(1), " ": page(1), PageUp: page(-1), "Shift+Space": page(-1),
    Home: start, g: start, End: end, G: end,
    ArrowLeft: side(-1), ArrowRight: side(1),
    "/": search, n: () => move(1), N: () => move(-1), e: error,
    f: follow, p: pause, w: () => toggle("wrap"), l: () => toggle("numbers"), t: () => toggle("times"),
    x: markTop, J: () => markMore(1), K: () => markMore(-1), c: copy, y: link, Escape: escape, "?": help,
  };
}
