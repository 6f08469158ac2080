// Shows the token once; the server answers with a cookie of this session.
document.getElementById("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  const answer = await fetch("/login", { method: "POST", body: event.target.token.value });
  if (answer.ok) location.href = "/";
  else document.getElementById("said").textContent = "This is not the token.";
});
