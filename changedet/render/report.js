"use strict";
(function () {
  var root = document.documentElement;
  root.classList.add("js");

  function setUpMap() {
    var map = document.getElementById("map");
    if (!map) { return; }
    var frame = map.querySelector(".map-frame");
    var panes = map.querySelector(".panes");
    var after = map.querySelector(".pane.after img");
    var divider = map.querySelector(".divider");
    var range = map.querySelector(".swipe input");
    var labels = map.querySelector(".labels");
    var furniture = map.querySelector(".furniture");
    var base = Number(labels.getAttribute("data-font"));
    var width = Number(labels.getAttribute("data-width"));
    var height = Number(labels.getAttribute("data-height"));
    var box = map.querySelector(".map-box");
    var strip = map.querySelector(".swipe");
    var zoom = 1;

    // The divider is placed within what is visible, so that it stays in reach when the map is zoomed in.
    function swipe() {
      var x = frame.scrollLeft + frame.clientWidth * Number(range.value) / 100;
      after.style.clipPath = "inset(0 0 0 " + x + "px)";
      divider.style.left = x + "px";
      range.setAttribute("aria-valuetext", "before on the left " + range.value + " percent of the view");
    }
    // Numbers keep their size on the screen; those without room appear when the map is larger.
    function label(size) {
      labels.setAttribute("font-size", size);
      furniture.setAttribute("font-size", size);
      labels.querySelectorAll("text").forEach(function (text) {
        text.style.display = Number(text.getAttribute("data-zoom")) <= 1.02 * base / size ? "" : "none";
      });
    }
    // The whole picture fits the window at zoom 1, and the frame keeps that size when zoomed in.
    function fit() {
      var most = Math.max(0.88 * window.innerHeight * width / height, 280);
      var shown = Math.floor(Math.min(map.clientWidth, most));
      box.style.width = strip.style.width = shown + "px";
      frame.style.height = Math.ceil(shown * height / width) + 2 + "px";
      frame.style.overflow = zoom === 1 ? "hidden" : "auto";
      panes.style.width = 100 * zoom + "%";
      label(Math.min(base, 12.5 * width / Math.max(panes.clientWidth, 1)));
      swipe();
    }
    map.querySelectorAll("[data-set-zoom]").forEach(function (button) {
      button.addEventListener("click", function () {
        var x = (frame.scrollLeft + frame.clientWidth / 2) / panes.clientWidth;
        var y = (frame.scrollTop + frame.clientHeight / 2) / panes.clientHeight;
        zoom = Number(button.getAttribute("data-set-zoom"));
        map.querySelectorAll("[data-set-zoom]").forEach(function (other) {
          other.setAttribute("aria-pressed", String(other === button));
        });
        fit();
        frame.scrollLeft = x * panes.clientWidth - frame.clientWidth / 2;
        frame.scrollTop = y * panes.clientHeight - frame.clientHeight / 2;
        swipe();
      });
    });
    map.querySelectorAll("[data-toggle]").forEach(function (box) {
      box.addEventListener("change", function () {
        var name = box.getAttribute("data-toggle");
        map.classList.toggle(name, name.indexOf("show") === 0 ? box.checked : !box.checked);
      });
    });
    range.addEventListener("input", swipe);
    frame.addEventListener("scroll", swipe);
    window.addEventListener("resize", fit);
    window.addEventListener("beforeprint", function () {
      panes.style.width = box.style.width = strip.style.width = frame.style.height = frame.style.overflow = "";
      after.style.clipPath = "";
      label(base);
    });
    window.addEventListener("afterprint", fit);
    after.addEventListener("load", fit);
    fit();
  }

  function sortValue(row, column) {
    var cell = row.cells[column];
    var key = cell.getAttribute("data-key");
    return key === null ? cell.textContent.trim() : key;
  }

  function compare(a, b) {
    // What is not known comes last, whichever way the rest is sorted.
    var x = Number(a), y = Number(b);
    if (a !== "" && b !== "" && !isNaN(x) && !isNaN(y)) { return x - y; }
    return a.localeCompare(b, "en", { numeric: true });
  }

  function sortTable(table, column, ascending) {
    var body = table.tBodies[0];
    var rows = Array.prototype.slice.call(body.rows);
    rows.sort(function (a, b) {
      var x = sortValue(a, column), y = sortValue(b, column);
      if (x === "" || y === "") { return (x === "") - (y === ""); }
      return ascending ? compare(x, y) : compare(y, x);
    });
    rows.forEach(function (row) { body.appendChild(row); });
  }

  function setUpTables() {
    document.querySelectorAll("table.sortable").forEach(function (table) {
      Array.prototype.forEach.call(table.tHead.rows[0].cells, function (head, column) {
        var button = document.createElement("button");
        button.type = "button";
        while (head.firstChild) { button.appendChild(head.firstChild); }
        head.appendChild(button);
        button.addEventListener("click", function () {
          var ascending = head.getAttribute("aria-sort") !== "ascending";
          Array.prototype.forEach.call(table.tHead.rows[0].cells, function (other) {
            other.removeAttribute("aria-sort");
          });
          head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
          sortTable(table, column, ascending);
        });
      });
    });
  }

  function setUpPrint() {
    var opened = [];
    window.addEventListener("beforeprint", function () {
      opened = Array.prototype.slice.call(document.querySelectorAll("details.print:not([open])"));
      opened.forEach(function (one) { one.open = true; });
    });
    window.addEventListener("afterprint", function () {
      opened.forEach(function (one) { one.open = false; });
    });
  }

  setUpMap();
  setUpTables();
  setUpPrint();
}());
