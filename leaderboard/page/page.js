/* Sorting, filtering, detail panels and colours. Without it the page shows all of its content. */
(() => {
  "use strict";

  const root = document.documentElement;
  root.classList.add("js");

  const THEME = "robustbench-lite-theme";
  const UP = "ascending";
  const DOWN = "descending";
  const TEXT_COLUMNS = new Set(["name", "status"]);
  const words = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

  /* Colours: chosen before the first paint, and kept where the browser lets a file keep anything. */

  function storedTheme() {
    try {
      return localStorage.getItem(THEME) || "auto";
    } catch {
      return "auto";
    }
  }

  function showTheme(theme) {
    if (theme === "light" || theme === "dark") {
      root.dataset.theme = theme;
    } else {
      delete root.dataset.theme;
    }
  }

  function setUpTheme() {
    for (const radio of document.querySelectorAll('input[name="theme"]')) {
      radio.checked = radio.value === (root.dataset.theme || "auto");
      radio.addEventListener("change", () => {
        showTheme(radio.value);
        try {
          localStorage.setItem(THEME, radio.value);
        } catch {
          /* the choice then lasts as long as the page */
        }
      });
    }
  }

  showTheme(storedTheme());

  /* Detail panels: one per entry; the name of the row is the button. */

  function isOpen(entry) {
    return entry.classList.contains("open");
  }

  function setOpen(entry, open) {
    entry.classList.toggle("open", open);
    entry.querySelector("details").open = open;
    entry.querySelector("button.opener").setAttribute("aria-expanded", String(open));
  }

  function addOpener(entry) {
    const name = entry.querySelector(".name");
    const button = document.createElement("button");
    button.type = "button";
    button.className = "opener";
    button.setAttribute("aria-expanded", "false");
    button.setAttribute("aria-controls", entry.querySelector("details").id);
    name.replaceWith(button);
    button.append(name);
    entry.querySelector(".row").addEventListener("click", (event) => {
      const inControl = event.target.closest("a, button") && !button.contains(event.target);
      if (!inControl && String(getSelection()) === "") {
        setOpen(entry, !isOpen(entry));
      }
    });
    addCopyButton(entry.querySelector(".command"));
  }

  function addCopyButton(command) {
    const code = command.querySelector("pre code");
    if (!code || !navigator.clipboard) {
      return;
    }
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy command";
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code);
        button.textContent = "Selected";
      }
      setTimeout(() => (button.textContent = "Copy command"), 2000);
    });
    command.querySelector(".links").prepend(button);
  }

  function closeOnEscape(event) {
    if (event.key !== "Escape" || event.defaultPrevented) {
      return;
    }
    const inside = document.activeElement.closest(".entry.open");
    const entry = inside || [...document.querySelectorAll(".entry.open")].pop();
    if (entry && !document.activeElement.matches("input, select")) {
      setOpen(entry, false);
      entry.querySelector("button.opener").focus();
    }
  }

  /* Sorting: within each table; equal rows keep the order of the page, rows without a number
     come last either way. */

  function cellValue(entry, index) {
    const cell = entry.rows[0].cells[index];
    return cell.dataset.value ?? cell.textContent.trim();
  }

  function compare(a, b, sign, asText) {
    if (asText) {
      return sign * words.compare(a, b);
    }
    const [x, y] = [a, b].map((text) => parseFloat(text.replaceAll(",", "")));
    if (Number.isNaN(x) || Number.isNaN(y)) {
      return Number.isNaN(x) - Number.isNaN(y);
    }
    return sign * (x - y);
  }

  function sortTable(table, header, direction) {
    const index = header.cellIndex;
    const asText = TEXT_COLUMNS.has(header.dataset.sort);
    const sign = direction === UP ? 1 : -1;
    const keyed = table.entries.map((entry) => [cellValue(entry, index), entry]);
    keyed.sort(([a], [b]) => compare(a, b, sign, asText));
    table.append(...keyed.map(([, entry]) => entry));
    for (const other of table.tHead.rows[0].cells) {
      other.removeAttribute("aria-sort");
    }
    header.setAttribute("aria-sort", direction);
  }

  function firstDirection(header) {
    return header.dataset.sort === "rank" || TEXT_COLUMNS.has(header.dataset.sort) ? UP : DOWN;
  }

  function addSorting(table) {
    table.entries = [...table.tBodies];
    for (const header of table.tHead.rows[0].cells) {
      const label = header.querySelector(".label");
      const button = document.createElement("button");
      button.type = "button";
      label.replaceWith(button);
      button.append(label);
      button.addEventListener("click", () => {
        const now = header.getAttribute("aria-sort");
        const next = now === null ? firstDirection(header) : now === UP ? DOWN : UP;
        sortTable(table, header, next);
      });
    }
  }

  function sortAll(tables, column) {
    for (const table of tables) {
      const header = table.tHead.querySelector(`[data-sort="${column}"]`);
      if (header) {
        sortTable(table, header, firstDirection(header));
      }
    }
  }

  /* Filtering: every word of the search has to occur in what identifies a row. */

  function searchText(entry) {
    entry.searchText ??= [...entry.querySelectorAll(".find")]
      .map((element) => element.textContent)
      .join("\n")
      .toLowerCase();
    return entry.searchText;
  }

  function matches(entry, section, wanted) {
    const is = (name, value) => !wanted.get(name) || wanted.get(name) === value;
    return (
      is("dataset", section.dataset.dataset) &&
      is("norm", section.dataset.norm) &&
      is("architecture", entry.dataset.architecture) &&
      is("status", entry.dataset.status) &&
      wanted.words.every((word) => searchText(entry).includes(word))
    );
  }

  function filterRows(form) {
    const wanted = new FormData(form);
    wanted.words = wanted.get("text").toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    let total = 0;
    for (const section of document.querySelectorAll(".group")) {
      let inSection = 0;
      for (const entry of section.querySelectorAll(".entry")) {
        entry.hidden = !matches(entry, section, wanted);
        inSection += entry.hidden ? 0 : 1;
        total += 1;
      }
      section.hidden = inSection === 0;
      const link = document.querySelector(`nav a[href="#${section.id}"]`);
      if (link) {
        link.parentElement.hidden = section.hidden;
      }
      shown += inSection;
    }
    const rows = total === 1 ? "row" : "rows";
    form.querySelector("output").value =
      shown === total ? `${total} ${rows}` : `${shown} of ${total} ${rows}`;
    form.classList.toggle("active", shown !== total);
    document.querySelector(".nothing").hidden = shown > 0;
  }

  /* A link to a row opens it, whatever was filtered away before. */

  function openLinkedRow(form) {
    const entry = document.getElementById(location.hash.slice(1));
    if (!entry || !entry.classList.contains("entry")) {
      return;
    }
    form.reset();
    setOpen(entry, true);
    entry.scrollIntoView({ block: "start" });
  }

  document.addEventListener("DOMContentLoaded", () => {
    setUpTheme();
    const form = document.querySelector(".filters");
    if (!form) {
      return;
    }
    const tables = [...document.querySelectorAll("table.ranking")];
    tables.forEach(addSorting);
    document.querySelectorAll(".entry").forEach(addOpener);
    document.addEventListener("keydown", closeOnEscape);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", () => filterRows(form));
    form.elements.order.addEventListener("change", () => sortAll(tables, form.elements.order.value));
    form.addEventListener("reset", () => {
      setTimeout(() => {
        filterRows(form);
        sortAll(tables, "rank");
      });
    });
    window.addEventListener("hashchange", () => openLinkedRow(form));
    filterRows(form);
    openLinkedRow(form);
  });
})();
