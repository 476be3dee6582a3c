// Where a line of the bundle comes from, so that the stack of an error names the files of the filter. QuickJS knows no source maps.

const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/** Runs of lines of a bundle: `[first line, file, line in the file, how many]`, of the files that `isShown` wants. Lines begin with 1. */
export function runs(map, isShown) {
  const { sources, mappings } = JSON.parse(map);
  const found = [];
  let [source, line] = [0, 0];
  mappings.split(";").forEach((segments, at) => {
    let first;
    for (const segment of segments.split(",").filter(Boolean)) {
      const [, bySource, byLine] = numbers(segment);
      if (bySource === undefined) continue;
      source += bySource;
      line += byLine;
      first ??= [source, line];
    }
    if (first === undefined || !isShown(sources[first[0]])) return;
    const [run] = found.slice(-1);
    if (run !== undefined && run[1] === first[0] && run[0] + run[3] === at + 1 && run[2] + run[3] === first[1] + 1) run[3]++;
    else found.push([at + 1, first[0], first[1] + 1, 1]);
  });
  return found.map(([begin, of, line, count]) => [begin, sources[of].replace(/^.*\//, ""), line, count]);
}

/** The numbers of a segment: base 64, five bits a digit, the sign in the lowest bit. */
function numbers(segment) {
  const found = [];
  let [value, shift] = [0, 0];
  for (const digit of segment) {
    const bits = DIGITS.indexOf(digit);
    value += (bits & 31) << shift;
    shift += 5;
    if (bits & 32) continue;
    found.push(value & 1 ? -(value >> 1) : value >> 1);
    [value, shift] = [0, 0];
  }
  return found;
}
