"""Where may a token be in a request, and who may send it?"""
