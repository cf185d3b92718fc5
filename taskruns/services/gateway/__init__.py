"""What scripts do through the gateway: `keys` chooses the API key, `places` bounds how many web threads wait, `reads`
passes a GET on, `passing` records the runs and tasks that it shows, `acts` cancels and starts runs.
"""
