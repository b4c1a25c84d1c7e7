"use strict";
// Draws the charts from the values in the page; the tables above and below them say the same without it.
(() => {
  const values = (id) => JSON.parse(document.getElementById(id).textContent);
  const summary = values("summary");
  const series = values("series");
  const plain = { fontFamily: "inherit", overflow: "visible" };
  const known = ["admitted", "already_used", "busy", "conflict", "not_found"];
  const bad = ["error", "unknown", "unclassified", "overload", "not_sent"];
  const ofOutcome = (name) => `var(--${known.includes(name) ? name : bad.includes(name) ? "error" : "other"})`;
  const palette = ["var(--first)", "var(--second)", "var(--third)", "var(--other)"];
  const scenarios = [...new Set(series.timeline.map((row) => row.scenario))];
  const ofScenario = (name) => palette[scenarios.indexOf(name) % palette.length];
  const number = (value) =>
    value === null || value === undefined ? "–" : Number(value).toLocaleString("en", { maximumSignificantDigits: 4 });
  const milliseconds = (value) => (value < 10 ? value.toFixed(2) : value < 100 ? value.toFixed(1) : number(Math.round(value)));
  const element = (tag, text, attributes = {}) => {
    const made = Object.assign(document.createElement(tag), { textContent: text ?? "" });
    Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
    return made;
  };
  const hidden = { outcomes: new Set(), scenarios: new Set() };
  const shown = () => series.timeline.filter((row) => !hidden.scenarios.has(row.scenario));

  function legend(entries) {
    const made = element("div", "", { class: "legend" });
    for (const [name, colour] of entries) {
      const item = element("span");
      const swatch = element("i");
      swatch.style.background = colour;
      item.append(swatch, name);
      made.append(item);
    }
    return made;
  }

  const ofScenarios = () => legend(scenarios.map((name) => [name, ofScenario(name)]));

  // A plot as wide as its place, described for those who do not see it
  function plot(width, label, options) {
    const made = Plot.plot({ width, marginLeft: 52, marginRight: 18, marginBottom: 46, style: plain, ...options });
    made.setAttribute("role", "img");
    made.setAttribute("aria-label", label);
    return made;
  }

  const below = { labelOffset: 40 }; // the axis' name stands under its numbers
  const seconds = { label: "seconds into the run →", nice: true, ...below };

  function distribution(width) {
    const rows = series.distribution.filter((row) => !hidden.outcomes.has(row.outcome));
    if (!rows.length) return [element("p", "No outcome is chosen.")];
    const name = (row) => `${row.scenario} · ${row.outcome}`;
    const bins = rows.flatMap((row) => {
      const top = Math.max(...row.bins.map((bin) => bin[2]));
      return row.bins.map(([from, to, count]) => ({ ...row, name: name(row), from, to, number: count, height: count / top }));
    });
    const short = { med: "median", "p(95)": "p95", "p(99)": "p99" };
    const marks = rows.flatMap((row) =>
      Object.entries(row.marks).map(([mark, ms], place) => ({ outcome: row.outcome, name: name(row), mark, ms, place })),
    );
    const labels = [0, 1, 2].map((place) =>
      Plot.text(marks.filter((mark) => mark.place === place), {
        x: "ms", fy: "name", text: (d) => `${short[d.mark]} ${milliseconds(d.ms)}`, frameAnchor: "top", textAnchor: "start",
        dx: 4, dy: 19 + 14 * place, fill: "currentColor", stroke: "var(--ground)", strokeWidth: 4,
      }),
    );
    const described = rows.map((row) => `${name(row)}: median ${row.marks.med}, p95 ${row.marks["p(95)"]} ms`).join("; ");
    return [
      plot(width, described, {
        height: 60 + rows.length * 118, marginLeft: 8, marginTop: 8, marginRight: 70,
        x: { type: "log", label: "ms →", ...below, tickFormat: (d) => number(d), ticks: width < 500 ? 4 : 8, grid: true },
        y: { axis: null, domain: [0, 1.5] },
        fy: { axis: null, domain: rows.map(name), padding: 0.12 },
        marks: [
          Plot.ruleY([0], { stroke: "var(--line)" }),
          Plot.rectY(bins, {
            x1: "from", x2: "to", y1: 0, y2: "height", fy: "name", fill: (d) => ofOutcome(d.outcome), fillOpacity: 0.75, inset: 0.4,
          }),
          Plot.ruleX(marks, { x: "ms", fy: "name", stroke: "currentColor", strokeDasharray: "3 3" }),
          Plot.text(rows, {
            fy: name, text: (d) => `${name(d)} (${number(d.count)})`, frameAnchor: "top-left", dx: 2, fontWeight: 600,
            fill: "currentColor", stroke: "var(--ground)", strokeWidth: 4,
          }),
          ...labels,
          Plot.tip(bins, Plot.pointerX({
            x: (d) => Math.sqrt(d.from * d.to), y: "height", fy: "name",
            title: (d) => `${number(d.from)} – ${number(d.to)} ms\n${number(d.number)} scans, ${number((100 * d.number) / d.count)} %`,
          })),
        ],
      }),
    ];
  }

  function limits() {
    const named = Object.entries(summary.metrics).filter(([name]) => /^(scan|http_req)_duration/.test(name));
    return named.flatMap(([name, metric]) =>
      Object.entries(metric.thresholds ?? {})
        .filter(([expression]) => /^p\(95\)\s*<=?/.test(expression))
        .map(([expression, judged]) => ({ limit: judged.limit, text: `${name} ${expression}` })),
    );
  }

  function overTime(width) {
    const rows = shown().filter((row) => row["p(95)"] > 0);
    if (!rows.length) return [element("p", "There is nothing to show.")];
    const colour = (d) => ofScenario(d.scenario);
    return [
      ofScenarios(),
      plot(width, "p95 over time", {
        height: 280, x: seconds,
        y: { type: "log", label: "↑ ms", grid: true, ticks: 5, tickFormat: (d) => number(d) },
        marks: [
          Plot.areaY(rows, { x: "t", y1: "med", y2: "max", z: "scenario", fill: colour, fillOpacity: 0.16 }),
          Plot.lineY(rows, { x: "t", y: "p(95)", z: "scenario", stroke: colour, strokeWidth: 2 }),
          Plot.ruleY(limits(), { y: "limit", stroke: "var(--fail)", strokeDasharray: "6 4" }),
          Plot.text(limits(), {
            y: "limit", text: "text", frameAnchor: "right", dy: -8, fill: "var(--fail)", stroke: "var(--ground)", strokeWidth: 4,
          }),
          Plot.tip(rows, Plot.pointerX({
            x: "t", y: "p(95)",
            title: (d) => `${d.scenario}, ${number(d.t)} s\np95 ${milliseconds(d["p(95)"])} ms\nmedian ${number(d.med)}, slowest ${number(d.max)} ms`,
          })),
        ],
      }),
    ];
  }

  function steps(width, label, field, more) {
    const colour = (d) => ofScenario(d.scenario);
    const rows = shown().flatMap((row) => [row, { ...row, t: row.t + series.step * 0.999 }]);
    return [
      ofScenarios(),
      plot(width, label, {
        height: 220, x: seconds, y: { label: `↑ ${label}`, grid: true, nice: true, zero: true, ticks: 5 },
        marks: [
          Plot.ruleY([0], { stroke: "var(--line)" }),
          Plot.lineY(rows, { x: "t", y: field, z: "scenario", stroke: colour, strokeWidth: 2 }),
          ...more,
          Plot.tip(shown(), Plot.pointerX({
            x: "t", y: field,
            title: (d) => `${d.scenario}, ${number(d.t)} s\n${number(d.rate)} scans/s, ${number(d.vus)} VUs\n${number(d.failed)} errors/s`,
          })),
        ],
      }),
    ];
  }

  const failing = () => shown().filter((row) => row.failed > 0);
  const errors = () => [Plot.ruleX(failing(), { x: "t", y: "failed", stroke: "var(--error)", strokeWidth: 3 })];
  const throughput = (width) => steps(width, "scans per second", "rate", errors());
  const vus = (width) => steps(width, "VUs", "vus", []);

  function rounds(width) {
    const twice = (d) => d.broken;
    const races = [...new Set(series.rounds.map((d) => d.scenario))];
    const said = (d) => (d.winners.length ? `won by gate ${d.winners.join(" and gate ")}` : "nobody won");
    const colour = (d) => (twice(d) ? "var(--fail)" : ofScenario(d.scenario));
    return [
      legend([...races.map((name) => [name, ofScenario(name)]), ...(series.rounds.some(twice) ? [["too many winners", "var(--fail)"]] : [])]),
      plot(width, "release spread of each round", {
        height: 240, x: { label: "round →", ...below, ticks: width < 500 ? 4 : 10, tickFormat: "d" },
        y: { label: "↑ ms between first and last send", grid: true, nice: true, zero: true, ticks: 5 },
        marks: [
          Plot.ruleY([0], { stroke: "var(--line)" }),
          Plot.dot(series.rounds, {
            x: "round", y: "spread", r: (d) => (twice(d) ? 5 : 3), stroke: colour, fill: (d) => (twice(d) ? "var(--fail)" : "none"),
          }),
          Plot.tip(series.rounds, Plot.pointer({
            x: "round", y: "spread",
            title: (d) => `${d.scenario}, round ${d.round}\n${number(d.spread)} ms, ${d.overlap} of ${d.requests} in flight together\n${said(d)}`,
          })),
        ],
      }),
    ];
  }

  let chosen = 0;

  function broken(width) {
    const round = series.broken[chosen];
    const admitted = (d) => d.outcome === "admitted";
    const gates = round.requests.map((request) => request.gate);
    const names = [...new Set(round.requests.map((request) => request.outcome))];
    const chooser = element("select", "", { id: "round" });
    series.broken.forEach((one, place) => chooser.append(new Option(`${one.scenario}, round ${one.round}`, place, false, place === chosen)));
    chooser.addEventListener("change", () => {
      chosen = Number(chooser.value);
      draw("broken");
      document.getElementById("round").focus();
    });
    const label = element("label", "Round ", { for: "round" });
    label.append(chooser);
    return [
      label,
      element("p", `ticket ${round.ticket}`, { class: "mono" }),
      legend(names.map((name) => [name, ofOutcome(name)])),
      plot(width, `round ${round.round}, one line for each gate`, {
        height: 70 + 20 * gates.length, marginLeft: 62,
        x: { label: "ms after the first send →", ...below, grid: true, zero: true, ticks: width < 500 ? 4 : 10 },
        y: { domain: gates, label: null, tickFormat: (d) => `gate-${d}`, tickSize: 0 },
        marks: [
          Plot.ruleY(round.requests, {
            y: "gate", x1: "sent", x2: "last", stroke: (d) => ofOutcome(d.outcome), strokeWidth: (d) => (admitted(d) ? 7 : 2.5),
          }),
          Plot.dot(round.requests, { y: "gate", x: "first", r: (d) => (admitted(d) ? 5 : 3), fill: (d) => ofOutcome(d.outcome) }),
          Plot.tip(round.requests, Plot.pointer({
            y: "gate", x: "first", title: (d) => `gate-${d.gate}: ${d.outcome}\nsent ${number(d.sent)}, first byte ${number(d.first)} ms`,
          })),
        ],
      }),
    ];
  }

  const flat = (rows) => rows.map((row) => Object.fromEntries(Object.entries(row).map(([k, v]) => [k, Array.isArray(v) ? v.join(", ") : v])));
  const charts = {
    distribution: [distribution, () => series.distribution.flatMap((row) =>
      row.bins.map(([from, to, count]) => ({ scenario: row.scenario, outcome: row.outcome, "from ms": from, "to ms": to, scans: count })))],
    "over-time": [overTime, () => series.timeline.map((d) => ({ scenario: d.scenario, second: d.t, "median ms": d.med, "p(95) ms": d["p(95)"], "max ms": d.max }))],
    throughput: [throughput, () => series.timeline.map((d) => ({ scenario: d.scenario, second: d.t, "scans/s": d.rate, "errors/s": d.failed }))],
    vus: [vus, () => series.timeline.map((d) => ({ scenario: d.scenario, second: d.t, VUs: d.vus }))],
    rounds: [rounds, () => flat(series.rounds)],
    broken: [broken, () => series.broken.flatMap((round) => round.requests.map((request) => ({ round: round.round, ...request })))],
  };

  function table(rows) {
    const made = element("table");
    const head = made.createTHead().insertRow();
    Object.keys(rows[0] ?? {}).forEach((name) => head.append(element("th", name, { scope: "col" })));
    const body = made.createTBody();
    for (const row of rows) {
      const line = body.insertRow();
      Object.values(row).forEach((value) => {
        const cell = line.insertCell();
        cell.textContent = typeof value === "number" ? number(value) : value ?? "–";
        if (typeof value === "number") cell.className = "n";
      });
    }
    return made;
  }

  function draw(id) {
    const place = document.querySelector(`#${id} .plot`);
    if (place && place.clientWidth) place.replaceChildren(...charts[id][0](place.clientWidth));
  }

  // Buttons that show and hide what the charts have in common
  function filter(id, names, drawn) {
    const place = document.getElementById(id);
    if (names.length < 2) return;
    place.append(element("span", `Show ${id}:`));
    for (const name of names) {
      const button = element("button", name, { type: "button", "aria-pressed": "true" });
      button.addEventListener("click", () => {
        const off = hidden[id];
        off.has(name) ? off.delete(name) : off.add(name);
        button.setAttribute("aria-pressed", String(!off.has(name)));
        drawn.forEach(draw);
      });
      place.append(button);
    }
  }

  function themes() {
    const button = document.getElementById("theme");
    const order = ["system", "light", "dark"];
    button.addEventListener("click", () => {
      const next = order[(order.indexOf(document.documentElement.dataset.theme ?? "system") + 1) % order.length];
      if (next === "system") delete document.documentElement.dataset.theme;
      else document.documentElement.dataset.theme = next;
      button.textContent = `Theme: ${next}`;
    });
  }

  for (const [id, [, rows]] of Object.entries(charts)) {
    const figure = document.getElementById(id);
    if (!figure) continue;
    if (!rows().length) {
      figure.hidden = true;
      continue;
    }
    figure.querySelector(".numbers").addEventListener("toggle", (event) => {
      const place = event.target.querySelector(".scroll");
      if (!place.firstChild) place.append(table(rows()));
    });
    let width = 0;
    new ResizeObserver(([entry]) => {
      if (Math.round(entry.contentRect.width) !== width) {
        width = Math.round(entry.contentRect.width);
        draw(id);
      }
    }).observe(figure.querySelector(".plot"));
  }
  filter("outcomes", [...new Set(series.distribution.map((row) => row.outcome))], ["distribution"]);
  filter("scenarios", scenarios, ["over-time", "throughput", "vus"]);
  themes();
})();
