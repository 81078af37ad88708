// What the page says: numbers, maps, answers and what a test showed, as sentences.

function percent(share) {
  if (share > 0 && share < 0.01) return "below 1\u00a0%";
  return `${(100 * share).toFixed(0)}\u00a0%`;
}

function decimals(value) {
  return value.toFixed(2).replace("-", "\u2212");
}

function megabytes(bytes) {
  return (bytes / 1e6).toFixed(1);
}

/** The question about a class, or about one and not another. */
function titleOf(own, less) {
  return less ? `Why “${own}” and not “${less}”?` : `Why “${own}”?`;
}

/** What the colours of a map mean, and where it is strong. */
function legendOf(own, less, method, map, side) {
  const against = less ? `for “${less}”` : "against it";
  return `${titleOf(own, less)} ${method}: gold speaks for “${own}”, blue ${against}. The map is `
    + `${described(map, side)}.`;
}

/** What the network says now, and what it said before a share of the picture was erased. */
function verdictOf(before, now, erased, categories) {
  const [first, best] = [mostOf(before), mostOf(now)];
  const says = `“${categories[best]}”, ${percent(now[best])}`;
  if (!erased) return `The network says ${says}.`;
  const start = `Without ${percent(erased)} of the picture the network`;
  const was = percent(before[first]);
  if (best === first) return `${start} still says ${says} (before: ${was}).`;
  return `${start} says ${says}. “${categories[first]}” went from ${was} to `
    + `${percent(now[first])}.`;
}

/** How a map is told to who can't see it: as `plot.describe` has it. */
function described(values, side) {
  const cells = new Float64Array(9);
  let [positive, total] = [0, 0];
  const third = (place) => Math.min(2, Math.floor((3 * place) / side));
  values.forEach((value, pixel) => {
    const size = Math.abs(value);
    total += size;
    if (value > 0) positive += value;
    cells[3 * third(Math.floor(pixel / side)) + third(pixel % side)] += size;
  });
  if (!total) return "zero everywhere";
  const most = cells.indexOf(Math.max(...cells));
  const place = `${["top", "middle", "bottom"][Math.floor(most / 3)]} `
    + ["left", "centre", "right"][most % 3];
  const share = percent(cells[most] / total);
  return `${percent(positive / total)} positive, strongest at the ${place} (${share} of the total)`;
}

/**
 * What was learned, in a sentence, and the numbers behind it.
 * @param {Record<string, number[]>} scores
 * @param {{map: string, lender: string}} names of the map, and of the photograph that lent one
 */
function verdictOn(scores, { map, lender }) {
  const falls = Object.fromEntries(Object.entries(scores).map(([key, line]) => {
    return [key, meanFall(line)];
  }));
  const { morf, borrowed, lot } = falls;
  const numbers = `Mean fall of the score: ${decimals(morf)} most important first, `
    + `${decimals(borrowed)} by the map of “${lender}”, ${decimals(lot)} by lot, `
    + `${decimals(falls.lerf)} least important first.`;
  return { learned: `Here ${lesson({ morf, borrowed, lot }, map, lender)}`, numbers };
}

function lesson({ morf, borrowed, lot }, map, lender) {
  if (morf <= lot) {
    return `erasing by lot did as much harm as erasing by ${map}, or more: nothing shows that the `
      + "map found what the score rests on.";
  }
  if (morf <= borrowed) {
    return `${map} did more harm than an order by lot, but the map of “${lender}” did as much or `
      + "more: nothing shows that the map knew this picture.";
  }
  const besides = borrowed > lot ? "; yet the borrowed map, too, did more than the lot" : "";
  return `${map} did more harm than an order by lot and than the map of “${lender}”, as a `
    + `map that knows something of this picture would${besides}.`;
}
