"""Many machines, on Ansible: which are alike, what each kind gets, and how it comes there safely."""
