"""What every call goes through: its reception, who calls, what it may do; and who looks at the answer."""
