// The overview's charts, drawn from the JSON block that the server renews with the page.

import { axis, Chart, clock, colour, timeAxis, valueAxis } from "./charts.js";
import { live } from "./live.js";

// What is not 0 or 100 does not read as if it were.
const percent = (value) => {
  const shown = Math.round(value * 1000) / 10;
  return `${(shown === 0 || shown === 100) && value !== shown / 100 ? Number((value * 100).toFixed(4)) : shown}`;
};
// In pixels: the name of a release under the axis, and what stands beside the chart.
const [NAME_WIDTH, BESIDE] = [64, 62];
const short = (release) => release.split("-").at(-1).slice(0, 7);
// Before the charts: the page stays current whatever becomes of them.
live(draw);

let releases = [];
let paused = []; // [from, to] in seconds since 1970, of every time a rollout was held

function tint(release) {
  if (release.champion) return "champion";
  if (release.challenger) return "challenger";
  return release.gate_passed ? "ink-3" : "fail";
}

const intervals = {
  hooks: {
    draw(plot) {
      const { ctx } = plot;
      const dot = 4 * devicePixelRatio;
      ctx.save();
      ctx.setLineDash([]);
      releases.forEach((release, index) => {
        const x = plot.valToPos(index, "x", true);
        const at = (value) => plot.valToPos(value, "y", true);
        ctx.strokeStyle = colour(tint(release));
        ctx.fillStyle = release.gate_passed ? ctx.strokeStyle : colour("surface");
        ctx.lineWidth = 2 * devicePixelRatio;
        ctx.beginPath();
        ctx.moveTo(x, at(release.low));
        ctx.lineTo(x, at(release.high));
        for (const end of [release.low, release.high]) {
          ctx.moveTo(x - dot, at(end));
          ctx.lineTo(x + dot, at(end));
        }
        ctx.stroke();
        ctx.beginPath();
        ctx.arc(x, at(release.accuracy), dot, 0, 7);
        ctx.fill();
        ctx.stroke();
      });
      ctx.restore();
    },
  },
};

function accuracyRange() {
  const low = Math.min(...releases.map((release) => release.low));
  return [Math.max(0, Math.floor(low * 20 - 0.5) / 20), 1];
}

const accuracy = new Chart(
  "chart-accuracy",
  {
    scales: {
      x: { time: false, range: () => [-0.6, Math.max(releases.length - 0.4, 1.6)] },
      y: { range: accuracyRange },
    },
    axes: [
      axis({
        label: "release, oldest first",
        size: 26,
        // As many names as stand side by side, the newest among them.
        splits: (plot) => {
          const newest = releases.length - 1;
          const step = Math.ceil((releases.length * NAME_WIDTH) / (plot.width - BESIDE));
          return releases.map((_, index) => index).filter((index) => (newest - index) % step === 0);
        },
        values: (_plot, ticks) => ticks.map((tick) => (releases[tick] ? short(releases[tick].release) : "")),
      }),
      valueAxis("accuracy, %", percent),
    ],
    series: [{}, { stroke: () => colour("line-strong"), width: 1.5, dash: [3, 4], points: { show: false } }],
    plugins: [intervals],
  },
  (_plot, index) => {
    const release = releases[index];
    return [
      short(release.release),
      [tint(release), `${percent(release.accuracy)} %, ${percent(release.low)} to ${percent(release.high)} %`],
      ["", release.gate_passed ? "passed the gate" : "did not pass the gate"],
    ];
  },
);

const bands = [{ series: [2, 1], fill: () => colour("challenger", 0.35) }];
const line = (name, fill) => ({
  stroke: () => colour(name),
  width: 1.5,
  points: { show: false },
  fill: fill ? () => colour(name, 0.16) : undefined,
});

// The upper edge of the challenger's band, no wider than the challenger: where it got nothing the
// sum is the champion's line, and must not be drawn over in the challenger's colour. A bucket to
// either side is kept, from which and to which the band rises and falls.
function edge(sums, shares) {
  return sums.map((sum, index) =>
    shares[index] || shares[index - 1] || shares[index + 1] ? sum : null);
}

// Stacked: the first line is the champion's, the second the sum of both; the band between them
// is the challenger.
const traffic = new Chart(
  "chart-traffic",
  {
    scales: { y: { range: (_plot, _low, high) => [0, Math.max(1, high * 1.1)] } },
    axes: [timeAxis(), valueAxis("requests/s", (value) => `${value}`)],
    series: [{}, line("champion", true), line("challenger"), { ...line("fail"), width: 2 }],
    bands,
  },
  (plot, index) => {
    const [at, champion, sum, errors] = plot.data.map((row) => row[index]);
    return [
      `${clock(at)} UTC`,
      ...(sum === null ? [] : [["challenger", `challenger ${(sum - champion).toFixed(1)}/s`]]),
      ["champion", `champion ${champion.toFixed(1)}/s`],
      ...(errors ? [["fail", `failed ${errors.toFixed(1)}/s`]] : []),
    ];
  },
);

const held = (at) => paused.some(([from, to]) => at >= from && at < to);

// A share that stood still because a person held it: two bars and a tinted stretch.
const pauses = {
  hooks: {
    draw(plot) {
      const { ctx } = plot;
      const { top, left, width, height } = plot.bbox;
      const unit = devicePixelRatio;
      ctx.save();
      ctx.beginPath();
      ctx.rect(left, top, width, height);
      ctx.clip();
      for (const [from, to] of paused) {
        const start = plot.valToPos(from, "x", true);
        ctx.fillStyle = colour("warn", 0.22);
        ctx.fillRect(start, top, Math.max(plot.valToPos(to, "x", true) - start, 2 * unit), height);
        ctx.fillStyle = colour("warn");
        ctx.fillRect(start, top, 1.5 * unit, height);
        for (const bar of [5, 9]) ctx.fillRect(start + bar * unit, top + 6 * unit, 2.5 * unit, 9 * unit);
      }
      ctx.restore();
    },
  },
};

const stepped = (options) => ({ ...options, paths: (...given) => uPlot.paths.stepped({ align: 1 })(...given) });
const split = new Chart(
  "chart-split",
  {
    scales: { y: { range: [0, 1] } },
    axes: [timeAxis(), valueAxis("share of requests, %", percent)],
    series: [{}, stepped(line("champion", true)), stepped({ ...line("challenger"), width: 0 })],
    bands,
    plugins: [pauses],
  },
  (plot, index) => {
    const [at, champion] = plot.data.map((row) => row[index]);
    return [
      `${clock(at)} UTC`,
      ...(held(at) ? [["warn", "paused"]] : []),
      ["challenger", `challenger ${percent(1 - champion)} %`],
      ["champion", `champion ${percent(champion)} %`],
    ];
  },
);

function draw() {
  const read = JSON.parse(document.getElementById("series").textContent);
  releases = read.releases;
  accuracy.show([releases.map((_, index) => index), releases.map((release) => release.accuracy)]);
  const { at, champion, challenger, errors } = read.traffic.series;
  const sums = champion.map((value, index) => value + challenger[index]);
  traffic.show([at, champion, edge(sums, challenger), errors.map((value) => value || null)]);
  ({ paused } = read.split);
  split.show([read.split.at, read.split.challenger.map((share) => 1 - share),
    read.split.at.map(() => 1)]);
}

draw();
