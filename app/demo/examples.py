"""Texts to try, of our own writing: one of each kind that people bring."""

NEWS = (
    "The town council of Brookfield voted on Tuesday to close the old harbour bridge for two years. Engineers had"
    " found cracks in three of its four pillars during an inspection in March. Mayor Anna Keller said the repair "
    "would cost 4.2 million euros, of which the region pays half. Until the bridge opens again, buses will take "
    "the road over Milton, which adds 15 minutes to the way to the hospital. Shop owners at the harbour fear for "
    "their summer: the bakery of the Larsen family has already let two of its nine employees go. A ferry for "
    "people on foot is to start in May."
)
CHAT = (
    "Mira: Did anyone feed the cat this morning?\n"
    "Jonas: Not me, I left at six\n"
    "Mira: She is sitting in front of the fridge, shouting 🙀\n"
    "Jonas: Then she is fine :) There is a tin on the shelf, the blue one\n"
    "Mira: Found it. And the vet called: her appointment is on Friday at 4 pm\n"
    "Jonas: I can take her, I finish early on Friday\n"
    "Mira: Great, then I will cook"
)
MAIL = (
    "Dear Ms. Novak,\n"
    "\n"
    "Thank you for your order of 24 chairs (number 8812). Unfortunately the fabric in dark green is not in stock,"
    " and our supplier will not have it before 12 June. We can send the chairs in grey this week, or all of them "
    "in green in June with a discount of 10 percent. Please let us know by Thursday which you prefer.\n"
    "\n"
    "Kind regards\n"
    "Peter Holm, Holm Furniture"
)
REVIEW = (
    "Third time I have sent these headphones back and I have had enough. The left side dies after a week, the app"
    " loses them whenever the phone rings, and nobody at the hotline has ever called back. The sound was lovely "
    "while it lasted, which makes it worse. I want my money, not a fourth pair."
)
FAREWELL = (
    "After eleven years this is my last week with all of you. I will miss the bad coffee, the good arguments and "
    "the people who stayed late with me in the winter when nothing worked. Thank you for everything, I learned "
    "more here than anywhere else. Come and see us by the sea!"
)
EXAMPLES = {"News": NEWS, "Chat": CHAT, "Mail": MAIL, "Review": REVIEW, "Farewell": FAREWELL}
