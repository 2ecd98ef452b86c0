// Which sentences of a text answer a question, and at which bytes they stand. No model: words in common, and honesty.

const utf8 = new TextEncoder();
const COMMON = new Set(
  ("the and for are was were has have had does did not but with from that this these those there their they them then than what " +
    "which who whom whose when where why how can could may might must shall should will would been being into onto upon over " +
    "under about above after before between its our your you all any each both more most some such only own same very is it in " +
    "on of to be by or as at an do if so we").split(" "),
);

export interface Sentence {
  text: string;
  start: number; // bytes from the beginning of the text
  end: number;
}

export function bytes(text: string): number {
  return utf8.encode(text).length;
}

/** The first characters of a text, never half of one. */
export function cut(text: string, most: number): string {
  return text.length <= most ? text : [...text].slice(0, most).join("");
}

/** The words that carry a text's meaning, without their most usual endings. */
export function wordsOf(text: string): Set<string> {
  const found = text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
  return new Set(found.filter((word) => !COMMON.has(word) && (word.length > 1 || /\d/.test(word))).map(stem));
}

function stem(word: string): string {
  return word.length > 4 ? word.replace(/(ing|ed|es|s)$/, "") : word;
}

/** The sentences of a text without its headings, each exactly as it stands there. */
export function sentences(text: string): Sentence[] {
  const found: Sentence[] = [];
  for (const block of text.matchAll(/(?:^(?!\s*#)[^\n]*\S[^\n]*(?:\n|$))+/gm)) {
    for (const sentence of block[0].matchAll(/(?:[^.!?]|[.!?](?![\s”"’)]|$))+[.!?]*[”"’)]*/g)) {
      const said = sentence[0].trim();
      if (!said) continue;
      const before = text.slice(0, block.index + sentence.index + sentence[0].indexOf(said));
      const start = bytes(before);
      found.push({ text: said, start, end: start + bytes(said) });
    }
  }
  return found;
}

/** How much of a question a sentence answers: the share of its words that stand there, from 0 to 1. */
export function coverage(question: Set<string>, sentence: string): number {
  if (!question.size) return 0;
  const said = wordsOf(sentence);
  return [...question].filter((word) => said.has(word)).length / question.size;
}
