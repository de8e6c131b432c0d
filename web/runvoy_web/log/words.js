// Numbers in words.

const format = new Intl.NumberFormat("en");

export const grouped = (number) => format.format(number);

export const plural = (number, one, many = `${one}s`) => `${grouped(number)} ${number === 1 ? one : many}`;
