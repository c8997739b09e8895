// The pages of Emojivoto: ballot, answer to a vote, leaderboard.
// No framework, no request to anywhere but the server that sent this file.
(() => {
  "use strict";

  const main = document.getElementById("main");
  // A page that was left must not draw over the one that came after it.
  let visit = 0;
  // The vote that fails unless the demo was told otherwise; which one depends on the
  // year that is played, and so does the first emoji of the list.
  let broken = ":poop:";

  /** Makes an element with properties and children (elements or texts). */
  function make(tag, properties, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  function button(text, style, action) {
    return make("button", { type: "button", className: "btn " + style, onclick: action }, text);
  }

  /** Shows one page: its kind sets the background. */
  function show(kind, title, ...content) {
    document.body.className = kind;
    document.title = title;
    main.replaceChildren(make("div", { className: "page" }, ...content));
    window.scrollTo(0, 0);
  }

  function go(path) {
    if (location.pathname !== path) history.pushState(null, "", path);
    route();
  }

  function route() {
    visit += 1;
    if (location.pathname === "/leaderboard") leaderboard(visit);
    else ballot(visit);
  }

  /** Fetches a JSON answer and shows the page, or says that it cannot. */
  async function load(url, token, then) {
    try {
      const answer = await fetch(url);
      if (!answer.ok) throw new Error("status " + answer.status);
      const value = await answer.json();
      if (token === visit) then(value);
    } catch (_) {
      if (token !== visit) return;
      show("plain", "Emoji Vote",
        make("div", { className: "hero" }, "\u{1F50C}"),
        make("h1", {}, "Nobody answers"),
        make("p", {}, "The emoji did not arrive. They may be on their way."),
        make("div", { className: "buttons" }, button("Try again", "primary", route)));
    }
  }

  function name(shortcode) {
    return shortcode.replace(/^:|:$/g, "").replace(/_/g, " ");
  }

  function ballot(token) {
    show("plain", "Emoji Vote", ...headline(), make("p", { className: "wait" }, "Opening the polls …"));
    load("/api/list", token, (list) => {
      broken = list.length > 0 && list[0].shortcode === ":poop:" ? ":poop:" : ":doughnut:";
      const grid = make("div", { className: "grid" });
      for (const emoji of list) {
        const choice = make("button", {
          type: "button", className: "emoji", title: emoji.shortcode,
          onclick: () => vote(emoji, token),
        }, emoji.unicode);
        choice.setAttribute("aria-label", "Vote for " + name(emoji.shortcode));
        grid.append(choice);
      }
      show("plain", "Emoji Vote", ...headline(),
        make("div", { className: "buttons" },
          button("See the leaderboard", "primary", () => go("/leaderboard"))),
        grid,
        make("p", { className: "footer" }, "One click, one vote. Voting twice is welcome."));
    });
  }

  function headline() {
    return [
      make("div", { className: "hero" }, "\u{1F5F3}\u{FE0F}"),
      make("h1", {}, "Emoji Vote"),
      make("p", {}, "Which one is the best of them all? Click it."),
    ];
  }

  async function vote(emoji, token) {
    let counted = false;
    try {
      const answer = await fetch("/api/vote?choice=" + encodeURI(emoji.shortcode));
      counted = answer.ok;
    } catch (_) {
      // No answer is no vote.
    }
    if (token !== visit) return;
    if (counted) thanks(emoji);
    else failure(emoji);
  }

  function thanks(emoji) {
    show("plain", "Thank you",
      make("h1", {}, "You picked"),
      make("div", { className: "hero pick" }, emoji.unicode),
      make("p", {}, "A fine choice. Do the others agree?"),
      make("div", { className: "buttons" },
        button("See the leaderboard", "primary", () => go("/leaderboard")),
        button("Pick another one", "secondary", () => go("/"))));
  }

  function failure(emoji) {
    const joke = emoji.shortcode === ":poop:"
      ? "Of all the emoji there are, you had to go and pick this one?"
      : "You broke it. We are not angry, just disappointed.";
    const notice = emoji.shortcode === broken
      ? "Don’t worry: in this demo a vote for " + emoji.unicode + " always fails, on purpose."
      : "Don’t worry: in this demo some votes fail on purpose.";
    const again = make("a", { href: "/", onclick: (event) => { event.preventDefault(); go("/"); } },
      "something nicer");
    show("hazard", "Uh oh.",
      make("div", { className: "panel" },
        make("div", { className: "hero" }, "\u{1F6A7}"),
        make("h1", {}, "Uh oh."),
        make("p", { className: "notice" }, notice),
        make("p", {}, joke, " Pick ", again, " this time."),
        make("div", { className: "buttons" }, button("Select again", "primary", () => go("/")))));
  }

  function leaderboard(token) {
    const title = [
      make("div", { className: "hero" }, "\u{1F3C6}"),
      make("h1", {}, "Leaderboard"),
    ];
    show("plain", "Leaderboard", ...title, make("p", { className: "wait" }, "Counting …"));
    load("/api/leaderboard", token, (board) => {
      board.sort((one, other) => Number(other.votes) - Number(one.votes));
      const grid = make("div", { className: "grid" });
      for (const entry of board) {
        const votes = Number(entry.votes);
        const text = votes === 1 ? "1 vote" : votes + " votes";
        const cell = make("div", { className: "emoji still", title: entry.shortcode + " " + text },
          entry.unicode);
        if (votes > 0) cell.append(make("span", { className: "badge" }, entry.votes));
        cell.setAttribute("aria-label", name(entry.shortcode) + ", " + text);
        grid.append(cell);
      }
      const total = board.reduce((sum, entry) => sum + Number(entry.votes), 0);
      const summary = board.length === 0
        ? "No votes yet. Be the first."
        : total + (total === 1 ? " vote" : " votes") + " for " + board.length + " emoji so far.";
      show("plain", "Leaderboard", ...title, make("p", {}, summary),
        make("div", { className: "buttons" }, button("Vote", "primary", () => go("/"))),
        grid);
    });
  }

  window.addEventListener("popstate", route);
  route();
})();
