// Reads the study's charts: hover, touch or arrow keys move a line, and what stands there is told
// below the chart in words. The boxes above the charts show and hide variants.

function marks(chart) {
  return [...chart.querySelectorAll("[data-passes]")].filter((mark) => !mark.closest(".off"));
}

// Every number of passes at which a mark stands.
function stops(chart) {
  return [...new Set(marks(chart).map((mark) => Number(mark.dataset.passes)))].sort((a, b) => a - b);
}

// Where a stop is, in pixels from the plot's left.
function place(chart, stop) {
  const mark = marks(chart).find((each) => Number(each.dataset.passes) === stop);
  const box = mark.getBoundingClientRect();
  return box.left + box.width / 2 - chart.querySelector(".plot").getBoundingClientRect().left;
}

// Which of its variant's marks it is: "", "seed 1 ", "frozen " or "2018 ".
function which(chart, mark) {
  if (mark.closest(".reference")) return "2018 ";
  if (mark.matches(".frozen")) return "frozen ";
  const { variant, seed } = mark.closest(".curve").dataset;
  return chart.querySelectorAll(`.curve[data-variant="${variant}"]`).length > 1 ? `seed ${seed} ` : "";
}

function read(chart, stop) {
  chart.dataset.at = stop;
  chart.classList.add("reading-on");
  const cursor = chart.querySelector(".cursor");
  const x = place(chart, stop);
  cursor.setAttribute("x1", x);
  cursor.setAttribute("x2", x);
  const told = new Map(); // by variant: its seeds, frozen or not, and the article's net
  for (const mark of marks(chart).filter((each) => Number(each.dataset.passes) === stop)) {
    const { variant } = mark.closest("[data-variant]").dataset;
    told.set(variant, [...(told.get(variant) ?? []), mark]);
  }
  const text = [`${stop} ${stop === 1 ? "pass" : "passes"}`];
  for (const [variant, of] of told) {
    text.push(` · ${variant.replaceAll("_", " ")}`);
    of.forEach((mark, index) => {
      const bold = document.createElement("b");
      bold.className = variant;
      bold.textContent = mark.dataset.text;
      text.push(`${index ? "," : ""} ${which(chart, mark)}`, bold);
    });
  }
  const reading = chart.querySelector(".reading");
  reading.dataset.hint ??= reading.textContent;
  reading.replaceChildren(...text);
}

// What was read is no longer shown.
function forget(chart) {
  const reading = chart.querySelector(".reading");
  reading.textContent = reading.dataset.hint;
  chart.classList.remove("reading-on");
  delete chart.dataset.at;
}

function nearest(chart, x) {
  const all = stops(chart);
  if (!all.length) return null;
  const left = chart.querySelector(".plot").getBoundingClientRect().left;
  const distance = (stop) => Math.abs(place(chart, stop) + left - x);
  return all.reduce((best, stop) => (distance(stop) < distance(best) ? stop : best));
}

function follow(event) {
  const chart = event.target.closest?.(".chart");
  if (!chart || !event.target.closest(".plot")) return;
  const stop = nearest(chart, event.clientX);
  if (stop !== null && String(stop) !== chart.dataset.at) read(chart, stop);
}

document.addEventListener("pointermove", follow);
document.addEventListener("pointerdown", follow);

document.addEventListener("keydown", (event) => {
  const chart = event.target.closest?.(".chart");
  if (!chart || !["ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key)) return;
  const all = stops(chart);
  if (!all.length) return;
  event.preventDefault();
  const at = all.indexOf(Number(chart.dataset.at));
  const last = all.length - 1;
  const next = { ArrowLeft: at < 0 ? last : Math.max(0, at - 1), ArrowRight: Math.min(last, at + 1), Home: 0, End: last };
  read(chart, all[next[event.key]]);
});

document.addEventListener("change", (event) => {
  if (!event.target.closest(".toggles")) return;
  for (const part of document.querySelectorAll(`.chart [data-variant="${event.target.value}"]`)) {
    part.classList.toggle("off", !event.target.checked);
  }
  for (const chart of document.querySelectorAll(".chart.reading-on")) {
    const stop = Number(chart.dataset.at);
    if (stops(chart).includes(stop)) read(chart, stop);
    else forget(chart);
  }
});
