// uPlot in the console's clothes: colours from the design system, units on axes, a tooltip.

const probe = document.createElement("span");
probe.hidden = true;
document.documentElement.append(probe);

export function colour(name, alpha = 1) {
  probe.style.color = `var(--${name})`;
  const computed = getComputedStyle(probe).color;
  if (alpha === 1) return computed;
  const [r, g, b] = computed.match(/[\d.]+/g);
  return `rgba(${r}, ${g}, ${b}, ${alpha})`;
}

// Whole pixels: uPlot scales the digits before "px" for a dense screen, and would scale only the 5 of 11.5.
const FONT = '12px Inter, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", system-ui, sans-serif';

function axis(more) {
  return {
    stroke: () => colour("ink-3"),
    font: FONT,
    labelFont: FONT,
    labelSize: 16,
    labelGap: 0,
    grid: { stroke: () => colour("line"), width: 1 },
    ticks: { stroke: () => colour("line"), width: 1, size: 4 },
    ...more,
  };
}

const two = (number) => String(number).padStart(2, "0");

export function clock(seconds, span = 0) {
  const at = new Date(seconds * 1000);
  const time = `${two(at.getUTCHours())}:${two(at.getUTCMinutes())}`;
  if (span > 3 * 86400) return `${at.getUTCDate()}.${at.getUTCMonth() + 1}.`;
  return span && span > 900 ? time : `${time}:${two(at.getUTCSeconds())}`;
}

export function timeAxis() {
  return axis({
    label: "time (UTC)",
    size: 26,
    space: 78,
    values: (plot, ticks) => ticks.map((tick) => clock(tick, plot.scales.x.max - plot.scales.x.min)),
  });
}

export function valueAxis(label, write, more = {}) {
  return axis({ label, size: 46, space: 30, values: (_plot, ticks) => ticks.map(write), ...more });
}

export { axis };

function tooltip(describe) {
  let tip;
  return {
    hooks: {
      init(plot) {
        tip = document.createElement("div");
        tip.className = "chart-tip";
        tip.hidden = true;
        plot.over.append(tip);
        plot.over.addEventListener("mouseleave", () => { tip.hidden = true; });
      },
      setCursor(plot) {
        const { idx, left } = plot.cursor;
        const lines = idx == null || left < 0 ? null : describe(plot, idx);
        tip.hidden = !lines;
        if (!lines) return;
        tip.replaceChildren();
        const [title, ...rest] = lines;
        const head = document.createElement("b");
        head.textContent = title;
        tip.append(head);
        for (const [tint, words] of rest) {
          const row = document.createElement("div");
          if (tint) {
            const dot = document.createElement("i");
            dot.style.background = colour(tint);
            row.append(dot);
          }
          row.append(words);
          tip.append(row);
        }
        const right = left > plot.over.clientWidth / 2;
        tip.style.left = right ? "" : `${left + 12}px`;
        tip.style.right = right ? `${plot.over.clientWidth - left + 12}px` : "";
        tip.style.top = "4px";
      },
    },
  };
}

// One chart in one box: made on the first data, then updated; redrawn when size or theme change.
export class Chart {
  constructor(id, options, describe) {
    this.box = document.getElementById(id);
    this.options = options;
    this.describe = describe;
    if (window.ResizeObserver) new ResizeObserver(() => this.fit()).observe(this.box);
    window.addEventListener("themechange", () => this.plot?.redraw(false, true));
  }

  fit() {
    if (this.plot && this.box.clientWidth) {
      this.plot.setSize({ width: this.box.clientWidth, height: this.box.clientHeight });
    }
  }

  // A chart is an ornament: one that cannot be drawn says so and takes nothing else with it.
  show(data) {
    this.box.hidden = !data[0].length;
    if (this.box.hidden) return;
    try {
      this.draw(data);
    } catch (error) {
      this.box.textContent = "This chart cannot be drawn in this browser.";
      console.warn(error);
    }
  }

  draw(data) {
    if (this.plot) {
      this.plot.setData(data);
      return;
    }
    const { plugins = [], ...options } = this.options;
    this.plot = new uPlot(
      {
        width: this.box.clientWidth,
        height: this.box.clientHeight,
        legend: { show: false },
        cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
        padding: [10, 10, 0, 0],
        tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1e3), "Etc/UTC"),
        plugins: [...plugins, tooltip(this.describe)],
        ...options,
      },
      data,
      this.box,
    );
  }
}
