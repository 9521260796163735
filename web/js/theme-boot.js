// Runs before the first paint, so that a chosen theme does not flash. Everything else about themes: theme.js.
(function () {
  try {
    var theme = localStorage.getItem("rtc-server.theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch (error) {
    // Storage can be switched off; the system's theme is used then.
  }
})();
