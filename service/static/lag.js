// One channel's mean while a net learns, simulated: batches see it with noise, a moving average
// follows it late, and the population's mean, taken at the end, is what it is.

const STEPS = 600;
const [WIDTH, HEIGHT] = [640, 260];
const [LOW, HIGH] = [-1, 2.4]; // in σ: one scale, so that two turns of a knob can be compared

// mulberry32, so that turning a knob shows the knob and not other dice.
function dice(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

// Standard normal numbers (Box and Muller, 1958).
function normals(count, seed) {
  const roll = dice(seed);
  return Array.from({ length: count }, () => Math.sqrt(-2 * Math.log(1 - roll())) * Math.cos(2 * Math.PI * roll()));
}

const noise = normals(STEPS + 1, 7);

// In standard deviations of the channel's values among pictures, which is 1.
function simulate(momentum, batch, drift, population) {
  const means = [], batches = [], averages = [];
  let average = 0;
  for (let step = 0; step < STEPS; step += 1) {
    const mean = drift * (0.0032 * step + 0.16 * Math.sin(step / 95));
    const seen = mean + noise[step] / Math.sqrt(batch);
    average = step ? momentum * average + (1 - momentum) * seen : seen;
    means.push(mean);
    batches.push(seen);
    averages.push(average);
  }
  const end = means[STEPS - 1];
  return { means, batches, averages, frozen: end + noise[STEPS] / Math.sqrt(population), end };
}

function turn() {
  const root = document.getElementById("lag");
  const value = (id) => Number(root.querySelector(`#${id}`).value);
  const [momentum, batch, drift] = [value("momentum"), value("batch"), value("drift") / 10];
  const population = Number(root.dataset.population);
  const run = simulate(momentum, batch, drift, population);
  const y = (v) => (HEIGHT - 12 - ((v - LOW) / (HIGH - LOW)) * (HEIGHT - 24)).toFixed(1);
  const x = (step) => ((step / STEPS) * (WIDTH - 40)).toFixed(1);
  const line = (values) => "M" + values.map((v, step) => `${x(step)} ${y(v)}`).join("L");
  const draw = (name, path) => root.querySelector(`svg .${name}`).setAttribute("d", path);
  draw("true", line(run.means));
  draw("late", line(run.averages));
  draw("batches", run.batches.map((v, step) => (step % 2 ? "" : `M${x(step)} ${y(v)}h0`)).join(""));
  draw("frozen", `M${WIDTH - 46} ${y(run.frozen)}H${WIDTH}`);
  const say = (id, text) => (root.querySelector(`output[for=${id}]`).textContent = text);
  say("momentum", momentum.toFixed(3));
  say("batch", batch);
  const speed = drift ? (drift * 10).toFixed(1) : "none";
  say("drift", speed);
  root.querySelector("#drift").setAttribute("aria-valuetext", drift ? `${speed} of 10` : speed);
  const off = (v) => `${Math.abs(v - run.end).toFixed(2)} σ`;
  root.querySelector("#lag-says").textContent =
    `At the end the moving average is ${off(run.averages[STEPS - 1])} off; ` +
    `the mean of ${population.toLocaleString("en")} pictures, taken then, ${off(run.frozen)}.`;
}

function start() {
  if (document.getElementById("lag")) turn();
}

document.addEventListener("input", (event) => {
  if (event.target.closest?.("#lag")) turn();
});
document.addEventListener("opened", start);
start();
