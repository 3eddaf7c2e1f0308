
"use strict";
(() => {
  const POLL_MILLISECONDS = 3000, TIMEOUT_MILLISECONDS = 10000, SILENT_SECONDS = 15, MANY_ROUTES = 12, TRAIN_PIXELS = 26;
  const EARLY = -60, LATE = 120, VERY_LATE = 300;
  const clock = new Intl.DateTimeFormat("en-GB", {
    timeZone: document.body.dataset.timeZone, hour: "2-digit", minute: "2-digit",
  });
  const main = document.querySelector("main"), nav = document.querySelector("nav");
  let view = null, madeAt = 0, receivedAt = 0, answeredAt = performance.now(), shownLine = "", shownRoutes = "";
  let chosen = readRoute();

  const element = (name, className, text) => {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const setText = (node, text) => { if (node.textContent !== text) node.textContent = text; };
  const seconds = (text) => Date.parse(text) / 1000;
  const since = (milliseconds) => (performance.now() - milliseconds) / 1000;
  const now = () => madeAt + since(receivedAt);
  const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

  function readRoute() {
    return new URLSearchParams(location.hash.slice(1)).get("route");
  }

  const inMinutes = (time) => Math.max(0, Math.round((seconds(time) - now()) / 60));
  const describeTime = (time) => {
    const left = seconds(time) - now();
    return left < 30 ? "now" : left < 60 ? "1 min" : `${Math.round(left / 60)} min`;
  };
  const describeRange = (event) => {
    if (event.earliest === null || event.latest === null) return "";
    const first = inMinutes(event.earliest), last = inMinutes(event.latest);
    return first === last ? "" : ` (${first}–${last})`;
  };
  const describeDelay = (delay) => {
    const whole = Math.round(Math.abs(delay));
    if (whole === 0) return "on time";
    const length = whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")} min`;
    return `${length} ${delay < 0 ? "early" : "late"}`;
  };
  const classify = (delay) =>
    delay < EARLY ? "early" : delay < LATE ? "ontime" : delay < VERY_LATE ? "late" : "verylate";

  function showRoutes() {
    const key = JSON.stringify([view.routes.map((row) => [row.route_id, row.color]), view.route_id]);
    if (key === shownRoutes) return;
    shownRoutes = key;
    const focused = nav.contains(document.activeElement);
    if (view.routes.length > MANY_ROUTES) {
      const label = element("label", "", "Line "), select = element("select");
      for (const row of view.routes) {
        const option = element("option", "", row.route_id);
        option.value = row.route_id;
        option.selected = row.route_id === view.route_id;
        select.append(option);
      }
      select.addEventListener("change", () => { location.hash = new URLSearchParams({ route: select.value }); });
      label.append(select);
      nav.replaceChildren(label);
      if (focused) select.focus();
      return;
    }
    nav.replaceChildren(...view.routes.map((row) => {
      const link = element("a", "", row.route_id);
      link.href = `#${new URLSearchParams({ route: row.route_id })}`;
      link.style.setProperty("--line", row.color);
      if (row.route_id === view.route_id) link.setAttribute("aria-current", "true");
      return link;
    }));
    if (focused) nav.querySelector("[aria-current]")?.focus();
  }

  function buildLines() {
    const key = JSON.stringify(view.lines.map((line) => [line.route_id, line.direction_id,
      line.stations.map((station) => [station.stop_id, station.name])]));
    if (key === shownLine) return;
    shownLine = key;
    main.replaceChildren(...view.lines.map((line) => {
      const section = element("section"), title = element("h2", "", `${line.route_id} `);
      section.style.setProperty("--line", line.color);
      section.setAttribute("aria-label", `${line.route_id} towards ${line.towards}`);
      title.append(element("span", "", `towards ${line.towards}`));
      const map = element("div", "map"), trains = element("ol", "trains"), stations = element("ol", "stations");
      trains.setAttribute("aria-label", "Vehicles");
      stations.setAttribute("aria-label", "Stations");
      for (const station of line.stations) {
        const row = element("li");
        row.dataset.stop = station.stop_id;
        row.append(element("span", "name", station.name), element("div", "events"));
        stations.append(row);
      }
      map.append(trains, stations);
      section.append(title, map);
      return section;
    }));
    if (!view.lines.length) main.replaceChildren(element("p", "soft", "No trip of this line is in the timetable today."));
  }

  function describeEvents(station) {
    const departures = station.departures.map((event) => ["departs", event]);
    const arrivals = station.arrivals.map((event) => ["", event]);
    return [...departures, ...arrivals].sort((a, b) => seconds(a[1].predicted) - seconds(b[1].predicted));
  }

  function showEvents(container, station) {
    const events = describeEvents(station);
    while (container.children.length > events.length) container.lastChild.remove();
    events.forEach(([verb, event], index) => {
      let line = container.children[index];
      if (!line) {
        line = element("p", "next");
        for (const part of ["b", "range", "delay", "vehicle"]) line.append(element(part === "b" ? "b" : "span", part), " ");
        container.append(line);
      }
      const [time, range, delay, vehicle] = line.children;
      line.className = index ? "next later" : "next";
      setText(time, `${verb ? "departs " : ""}${describeTime(event.predicted)}`);
      setText(range, describeRange(event));
      setText(delay, describeDelay(event.delay_seconds));
      delay.className = `delay ${classify(event.delay_seconds)}`;
      setText(vehicle, `${clock.format(new Date(event.predicted))} · ${event.vehicle_id}`);
    });
  }

  function showTrains(section, line) {
    const list = section.querySelector(".trains"), rows = section.querySelectorAll(".stations li");
    const known = new Map([...list.children].map((item) => [item.dataset.vehicle, item]));
    const placed = line.vehicles.filter((vehicle) => vehicle.position !== null)
      .map((vehicle) => {
        const before = Math.floor(vehicle.position), after = Math.min(before + 1, rows.length - 1);
        const top = rows[before].offsetTop;
        return [vehicle, top + (rows[after].offsetTop - top) * (vehicle.position - before)];
      })
      .sort((a, b) => a[1] - b[1]);
    let last = -Infinity;
    for (const [vehicle, exact] of placed) {
      const top = Math.max(exact, last + TRAIN_PIXELS);
      last = top;
      let item = known.get(vehicle.vehicle_id);
      known.delete(vehicle.vehicle_id);
      if (!item) {
        item = element("li");
        item.dataset.vehicle = vehicle.vehicle_id;
        item.append(element("span", "label", vehicle.vehicle_id), element("span", "mark"), element("span", "hidden"));
        item.children[1].setAttribute("aria-hidden", "true");
      }
      const delay = vehicle.delay_seconds === null ? "" : `, ${describeDelay(vehicle.delay_seconds)}`;
      setText(item.children[1], vehicle.is_standing ? "■" : "▼");
      setText(item.children[2], `${vehicle.is_standing ? "at" : "on the way to"} ${vehicle.current_stop}${delay}`);
      item.dataset.position = vehicle.position;
      item.style.top = `${top}px`;
      if (!item.isConnected) list.append(item);
    }
    for (const item of known.values()) item.remove();
  }

  function show() {
    if (!view) return;
    showRoutes();
    buildLines();
    view.lines.forEach((line, index) => {
      const section = main.children[index], rows = section.querySelectorAll(".stations li .events");
      line.stations.forEach((station, at) => showEvents(rows[at], station));
      showTrains(section, line);
    });
    setText(document.getElementById("model"), `Model ${view.model_version.slice(0, 16)}.`);
    setText(document.getElementById("interval"), view.confidence_level === null ? "" :
      `In brackets is the range of minutes in which ${Math.round(view.confidence_level * 100)}% of arrivals lie.`);
  }

  function showAge() {
    const problems = view ? [...view.problems] : [];
    if (since(answeredAt) > SILENT_SECONDS) problems.unshift("The server does not answer; what is shown may be old.");
    const box = document.getElementById("problems"), said = document.getElementById("said");
    if (JSON.stringify(problems) !== box.dataset.shown) {
      box.dataset.shown = JSON.stringify(problems);
      box.replaceChildren(...problems.map((problem) => element("p", "", problem)));
    }
    const kinds = problems.join(" ").replace(/\d+/g, "");  // that a number has changed is not read out again
    if (kinds !== said.dataset.kinds) {
      said.dataset.kinds = kinds;
      setText(said, problems.join(" "));
    }
    if (!view) return;
    const age = view.feed_time === null ? null : Math.max(0, Math.round(now() - seconds(view.feed_time)));
    const vehicles = view.lines.reduce((count, line) => count + line.vehicles.length, 0);
    setText(document.getElementById("age"), `${clock.format(new Date(now() * 1000))} · ${plural(vehicles, "vehicle")}` +
      (age === null ? "" : ` · positions ${plural(age, "second")} old`));
  }

  async function poll() {
    const wanted = chosen, query = wanted === null ? "" : `?${new URLSearchParams({ route: wanted })}`;
    try {
      const answer = await fetch(`network.json${query}`, { signal: AbortSignal.timeout(TIMEOUT_MILLISECONDS) });
      answeredAt = performance.now();
      const received = await answer.json();
      if (!answer.ok) throw new Error(received.error);
      if (wanted === chosen) {
        madeAt = seconds(received.made_at) + Number(answer.headers.get("X-Age-Seconds"));
        receivedAt = performance.now();
        view = received;
        chosen ??= view.route_id;
        show();
      }
    } catch (error) {
      if (!view) setText(document.getElementById("age"), `Nothing can be shown yet: ${error.message}`);
    }
    showAge();
  }

  let timer = 0;
  async function pollAgain() {
    clearTimeout(timer);
    await poll();
    clearTimeout(timer);
    if (!document.hidden) timer = setTimeout(pollAgain, POLL_MILLISECONDS);
  }
  addEventListener("hashchange", () => {
    chosen = readRoute() ?? chosen;  // the link that skips to the line has a hash too
    pollAgain();
  });
  addEventListener("resize", show);
  document.addEventListener("visibilitychange", pollAgain);
  setInterval(showAge, 1000);
  pollAgain();
})();
