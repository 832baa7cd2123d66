// The page that asks for the token; the server answers with a cookie.

const problem = document.getElementById("problem");

document.getElementById("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  const token = document.getElementById("token").value.trim();
  try {
    const response = await fetch("/login", {
      method: "POST",
      credentials: "same-origin",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ token }),
    });
    if (response.ok) return location.pathname === "/login" ? location.assign("/") : location.reload();
    const body = await response.json().catch(() => ({}));
    problem.textContent = body.error ?? "That is not the token of this server.";
  } catch {
    problem.textContent = "The server cannot be reached.";
  }
});
