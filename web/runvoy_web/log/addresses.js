// Addresses in a log's text, to be opened. Strangers write logs: one leads where it says, to the letter, or is text.

const ADDRESS = /\bhttps?:\/\/[^\s<>"'`\\^{|}]+/gi;
const LONGEST = 2_048;
const MOST = 50; // of one line are looked at

/** [{start, end, href}] of the addresses in a line's text, in their order. `isCut`: the text goes on after its end. */
export function addressesIn(text, isCut = false) {
  const found = [];
  if (!text.includes("://")) return found;
  let tried = 0;
  for (const { 0: whole, index } of text.matchAll(ADDRESS)) {
    const href = withoutEnd(whole);
    const isWhole = !isCut || index + whole.length < text.length;
    if (isWhole && isPlain(href)) found.push({ start: index, end: index + href.length, href });
    if (++tried === MOST) break;
  }
  return found;
}

/** Without what a sentence puts after an address: a full stop, or the parenthesis that it stands in. */
function withoutEnd(address) {
  const many = (one) => address.split(one).length;
  const surplus = { ")": many(")") - many("("), "]": many("]") - many("[") }; // of what is closed and was not opened in it
  let end = address.length;
  while (/[.,;:!?…]/.test(address[end - 1]) || surplus[address[end - 1]]-- > 0) end--;
  return address.slice(0, end);
}

/** Whether a browser goes to the host that is read: nobody's name before it, nor letters that look like others. */
function isPlain(address) {
  if (address.length > LONGEST || !URL.canParse(address)) return false;
  const { host, username, password } = new URL(address);
  const written = /^https?:\/\/([^/?#]*)/i.exec(address)[1].toLowerCase().replace(/:(?:80|443)?$/, "");
  return Boolean(host) && !username && !password && host.replace(/:(?:80|443)$/, "") === written;
}
