// How does a page stay logged in? It refreshes before its access token expires, in one tab at a time, and keeps its
// WebSockets open. Plain JavaScript without dependencies: copy it, and change what your page needs.
//
// It works with each setting of auth_routes(cookies=...), and finds out which one it is from the answer to the login:
//   "all"      no script ever has a token; a WebSocket is followed by a new one before its token expires
//   "refresh"  the access token is in this page's memory, and the refresh token in a cookie that no script can read
//   None       both tokens are in this page's memory, and a page that is loaded again must log in again

// Refresh when this share of a token's life has passed.
const SHARE = 0.75;
// Seconds until the next try while the service cannot answer, unless it names another time.
const PATIENCE = 5;

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

export class Session {
  isLoggedIn = false;
  #auth;
  #origins;
  #onChange;
  #name;
  #otherTabs;
  #token = null;
  #refreshToken = null;
  #dueAt = Infinity;
  #timer = null;
  #answers = 0;
  #connections = new Set();

  // `auth`: where the login routes are. `origins`: who gets the token. `onChange(isLoggedIn)` is called after each login
  // and logout, in this tab or in another one.
  constructor({ auth = "/auth", origins = [location.origin], onChange = () => {} } = {}) {
    this.#auth = auth;
    this.#origins = origins;
    this.#onChange = onChange;
    this.#name = `session at ${auth}`;
    this.#otherTabs = new BroadcastChannel(this.#name);
    // Tabs share cookies. Without them, each tab has a login of its own.
    this.#otherTabs.onmessage = ({ data }) => {
      if (this.#refreshToken === null) this.#hear(data);
    };
    // A timer sleeps while the machine does, and is late while the tab is in the background.
    document.addEventListener("visibilitychange", () => this.#refreshIfDue());
  }

  // The answer to the login, as a Response.
  login(username, password) {
    return this.#alone(async () => {
      const at = Date.now();
      const response = await this.#post("login", { username, password });
      if (response.ok) await this.#share({ what: "login", at, ...(await response.clone().json()) });
      return response;
    });
  }

  // Get new tokens. True if the page is logged in afterwards. Call it when the page has loaded, to go on with a login.
  async refresh() {
    const known = this.#answers;
    await this.#alone(async () => {
      // Another tab, or another part of this page, has refreshed while this one waited.
      if (this.#answers !== known) return;
      const at = Date.now();
      const form = this.#refreshToken ? { refresh_token: this.#refreshToken } : {};
      const response = await this.#post("refresh", form).catch(() => Response.error());
      if (response.ok) {
        await this.#share({ what: "refresh", at, ...(await response.json()) });
      } else if (response.status === 400) {
        await this.#share({ what: "end" });
      } else if (this.isLoggedIn) {
        // The service is busy, or cannot be reached. The tokens are as good as they were.
        this.#schedule(Date.now() + 1000 * (Number(response.headers.get("retry-after")) || PATIENCE));
      }
    });
    return this.isLoggedIn;
  }

  // The answer to the logout, as a Response. After a 503 this page has no token any more, but the login may live on.
  logout() {
    return this.#alone(async () => {
      const response = await this.#post("logout", this.#refreshToken ? { token: this.#refreshToken } : {});
      if (response.ok || response.status === 503) await this.#share({ what: "end" });
      return response;
    });
  }

  // Like fetch(), with the access token; and once more with a new one, if it has expired all the same.
  async fetch(input, init) {
    await this.#refreshIfDue();
    const request = new Request(input, init);
    const response = await this.#send(request.clone());
    if (response.status !== 401 || !this.isLoggedIn) return response;
    const { code } = await response.clone().json().catch(() => ({}));
    const isOver = code === "expired" || code === "missing_token";
    return isOver && (await this.refresh()) ? this.#send(request) : response;
  }

  // A WebSocket that outlives its tokens: { send(data), close() }. `renew(socket, token)` tells your app the new token.
  connect(url, { onMessage = () => {}, onClose = () => {}, renew = sendToken } = {}) {
    const session = { token: () => this.#token, refresh: () => this.refresh() };
    const connection = new Connection(url, session, {
      onMessage,
      renew,
      onClose: (event) => {
        this.#connections.delete(connection);
        onClose(event);
      },
    });
    this.#connections.add(connection);
    return connection;
  }

  // One tab at a time. The lock is the browser's, and goes with the tab that holds it.
  #alone(work) {
    return navigator.locks.request(this.#name, work);
  }

  #post(route, form) {
    const body = new URLSearchParams(form);
    return fetch(`${this.#auth}/${route}`, { method: "POST", body, credentials: "include" });
  }

  #send(request) {
    if (this.#token && this.#origins.includes(new URL(request.url).origin)) {
      request.headers.set("authorization", `Bearer ${this.#token}`);
    }
    return fetch(request);
  }

  async #share(answer) {
    const isOfAllTabs = this.#refreshToken === null;
    this.#hear(answer);
    if (!isOfAllTabs || this.#refreshToken) return;
    this.#otherTabs.postMessage(answer);
    // The message reaches the other tabs before the lock does.
    await pause(50);
  }

  #hear({ what, at = 0, access_token = null, refresh_token = null, expires_in = Infinity }) {
    const isChange = what === "login" || this.isLoggedIn !== (what !== "end");
    this.#answers += 1;
    this.#token = access_token;
    this.#refreshToken = refresh_token;
    this.isLoggedIn = what !== "end";
    this.#schedule(at + 1000 * SHARE * expires_in);
    if (this.isLoggedIn) for (const connection of this.#connections) connection.renew();
    if (isChange) this.#onChange(this.isLoggedIn);
  }

  #schedule(dueAt) {
    this.#dueAt = dueAt;
    clearTimeout(this.#timer);
    if (dueAt !== Infinity) this.#timer = setTimeout(() => this.refresh(), dueAt - Date.now());
  }

  async #refreshIfDue() {
    if (Date.now() >= this.#dueAt) await this.refresh();
  }
}

const sendToken = (socket, token) => socket.send(JSON.stringify({ token }));

class Connection {
  #url;
  #session;
  #handlers;
  #socket = null;
  #isClosed = false;
  #waiting = [];

  constructor(url, session, handlers) {
    this.#url = url;
    this.#session = session;
    this.#handlers = handlers;
    this.#open();
  }

  send(data) {
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(data);
    else this.#waiting.push(data);
  }

  close() {
    this.#isClosed = true;
    this.#socket.close(1000);
  }

  renew() {
    const token = this.#session.token();
    // A cookie goes with the handshake alone. So a new WebSocket takes the place of the old one.
    if (token === null || this.#socket.readyState === WebSocket.CLOSED) this.#open();
    else if (this.#socket.readyState === WebSocket.OPEN) this.#handlers.renew(this.#socket, token);
  }

  #open() {
    const token = this.#session.token();
    const old = this.#socket;
    const socket = token ? new WebSocket(this.#url, ["bearer", token]) : new WebSocket(this.#url);
    this.#socket ??= socket;
    socket.addEventListener("open", () => {
      if (this.#isClosed) return socket.close(1000);
      this.#socket = socket;
      old?.close(1000);
      // The page has refreshed while the handshake was under way.
      if (token !== this.#session.token()) this.renew();
      for (const data of this.#waiting.splice(0)) socket.send(data);
    });
    socket.addEventListener("message", (event) => this.#handlers.onMessage(event.data));
    socket.addEventListener("close", async (event) => {
      // The old one, after the new one has opened; or the new one, which could not open, while the old one lives on.
      if (this.#socket !== socket && this.#socket.readyState !== WebSocket.CLOSED) return;
      // The page has slept through the renewal. If it is still logged in, renew() opens the next one.
      const hasExpired = event.code === 3000 && event.reason === "expired" && !this.#isClosed;
      if (!hasExpired || !(await this.#session.refresh())) this.#handlers.onClose(event);
    });
  }
}
